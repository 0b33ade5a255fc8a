# SPDX-License-Identifier: GPL-3.0-or-later
"""Which key a store is sealed under."""

import sqlalchemy as sa

from acme_milter.store.schema import identity as table

_SEALED_UNDER = "sealed-under"


class SealedUnderAnotherKey(Exception):
    """The store belongs to another wrapping key than the one at hand; the text names both by their ids."""

    safe_text = True


def bind(connection: sa.Connection, key_id: str) -> None:
    """Bind a new store to the key with this id, or make sure that it is the one it was bound to.

    Raises SealedUnderAnotherKey: whatever would be stored now could never be read together with what is there.
    """
    known = connection.execute(sa.select(table.c.value).where(table.c.name == _SEALED_UNDER)).scalar()
    if known is None:
        connection.execute(table.insert().values(name=_SEALED_UNDER, value=key_id))
    elif known != key_id:
        raise SealedUnderAnotherKey(
            f"the store is sealed under key {known}, and keyd has {key_id}: put the right wrapping key back where "
            "keys.wrapping_key says, or move the store away to begin anew"
        )
