# SPDX-License-Identifier: GPL-3.0-or-later
"""What the store and the configuration say together: views for people and scripts, plans and forecasts."""
