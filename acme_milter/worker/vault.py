# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealing what the worker stores: tokens, mails, replies, passphrases. Private keys are keyd's affair, never ours."""

from acme_milter.keys.sealing import seal, unseal


class Vault:
    """Seals under the data key that keyd derives for the store; each value is bound to its row (T23).

    ``unseal_…`` raise keys.sealing.SealBroken when the bytes were changed or belong to another row.
    """

    def __init__(self, data_key: bytes) -> None:
        self._data_key = data_key

    def seal_token(self, enrollment_id: str, token_part2: str) -> bytes:
        return seal(self._data_key, token_part2.encode("ascii"), _bound("token-part2", enrollment_id))

    def unseal_token(self, enrollment_id: str, sealed: bytes) -> str:
        return unseal(self._data_key, sealed, _bound("token-part2", enrollment_id)).decode("ascii")

    def seal_mail(self, challenge_mail_id: str, raw: bytes) -> bytes:
        return seal(self._data_key, raw, _bound("challenge-mail", challenge_mail_id))

    def unseal_mail(self, challenge_mail_id: str, sealed: bytes) -> bytes:
        return unseal(self._data_key, sealed, _bound("challenge-mail", challenge_mail_id))

    def seal_reply(self, outbox_id: str, raw: bytes) -> bytes:
        return seal(self._data_key, raw, _bound("reply", outbox_id))

    def unseal_reply(self, outbox_id: str, sealed: bytes) -> bytes:
        return unseal(self._data_key, sealed, _bound("reply", outbox_id))

    def seal_passphrase(self, delivery_id: str, form: str, passphrase: str) -> bytes:
        """`form`: the format of the file that it opens."""
        return seal(self._data_key, passphrase.encode("ascii"), _bound(f"passphrase {form}", delivery_id))

    def unseal_passphrase(self, delivery_id: str, form: str, sealed: bytes) -> str:
        return unseal(self._data_key, sealed, _bound(f"passphrase {form}", delivery_id)).decode("ascii")


def _bound(purpose: str, row_id: str) -> dict[str, str]:
    return {"purpose": purpose, "row": row_id}
