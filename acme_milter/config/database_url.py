# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a database URL has its password, and the URL without it."""

import re

# As SQLAlchemy reads one: everything up to the first @ may be the password, a / and a ? too.
_LOGIN = re.compile(r"(://[^:/@]*):[^@]*@(?:[^/?]*@)?")
# The drivers' own names for one among the options: libpq, and MySQL's.
_OPTION = re.compile(r"([?&](?:password|passwd|sslpassword)=)[^&]*", re.IGNORECASE)


def without_password(url: str) -> str:
    """The URL with *** for its password, wherever it stands."""
    return _OPTION.sub(r"\1***", _LOGIN.sub(r"\1:***@", url, count=1))


def has_password(url: str) -> bool:
    """Whether there is one in it."""
    return without_password(url) != url
