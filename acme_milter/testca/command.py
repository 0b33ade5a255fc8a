# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of the test CA."""

from pathlib import Path

import click

from acme_milter import __version__
from acme_milter.testca.chaos import parse_settings
from acme_milter.testca.encoding import from_base64url
from acme_milter.testca.knobs import KNOBS, KnobError
from acme_milter.testca.office import Endpoint, Options


class EndpointType(click.ParamType[Endpoint]):
    """HOST:PORT, an IPv6 host in brackets."""

    name = "HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Endpoint:
        """Return host and port, or fail with what was wrong."""
        host, sign, port = str(value).rpartition(":")
        if not sign or not host or not port.isdigit() or int(port) > 65535:
            self.fail(f"{value!r} is not HOST:PORT", param, ctx)
        return host.strip("[]"), int(port)


_ENDPOINT = EndpointType()


def _show_knobs(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        for knob in KNOBS.values():
            click.echo(f"{knob.name}={knob.default}\n    {knob.meaning}\n    {knob.valid()}")
        context.exit()


def _lower(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    return value.lower()


@click.command(context_settings={"show_default": True})
@click.option("--listen", type=_ENDPOINT, default="127.0.0.1:0", help="HTTPS; port 0 picks a free one.")
@click.option("--smtp-target", type=_ENDPOINT, required=True, help="The organization's MX: challenge mails go there.")
@click.option("--mx-listen", type=_ENDPOINT, default="127.0.0.1:0", help="The CA's own MX, for replies.")
@click.option("--dns-listen", type=_ENDPOINT, default="127.0.0.1:0", help="UDP name server with the CA's DKIM keys.")
@click.option("--resolver", type=_ENDPOINT, help="UDP resolver for the organization's DKIM keys.")
@click.option("--domain", default="ca.example", callback=_lower, help="The CA's mail domain.")
@click.option("--dkim-algorithm", type=click.Choice(["rsa", "ed25519", "both"]), default="rsa")
@click.option("--directory-out", type=click.Path(path_type=Path), help="Written (JSON) when all listeners are up.")
@click.option("--state-dir", type=click.Path(path_type=Path), required=True, help="CA, TLS and DKIM keys live here.")
@click.option("--eab", multiple=True, metavar="KID:HMAC", help="Demand external account binding (HMAC in base64url).")
@click.option("--reply-dkim", type=click.Choice(["strict", "lenient", "off"]), default="strict")
@click.option(
    "--chaos", multiple=True, metavar="NAME=VALUE", help="Set a fault knob; --knobs lists them, ALL=5 sets all."
)
@click.option("--seed", type=int, help="Seed of the dice that percentages are thrown with.")
@click.option("--senders", type=click.IntRange(1, 32), default=4, help="Parallel SMTP connections for challenges.")
@click.option("--first-pause", type=click.FloatRange(0.01), default=1.0, help="Seconds to the first SMTP retry.")
@click.option("--events", type=click.IntRange(1), help="Keep only so many events of the history; default: all.")
@click.option("--knobs", is_flag=True, is_eager=True, expose_value=False, callback=_show_knobs, help="List the knobs.")
@click.version_option(__version__)
def testca(
    eab: tuple[str, ...], chaos: tuple[str, ...], resolver: Endpoint | None, reply_dkim: str, **options: object
) -> None:
    """Run a strict, fault-injecting RFC 8823 certification authority. For tests only."""
    if resolver is None and reply_dkim != "off":
        raise click.UsageError("--resolver is needed to verify replies, or --reply-dkim off")
    try:
        knobs = parse_settings(chaos)
    except KnobError as error:
        raise click.UsageError(f"--chaos {error}") from error
    try:
        # Imported late: --help and a usage error need no server.
        from acme_milter.testca.process import serve
    except ImportError as error:
        raise click.ClickException(
            f"the test CA needs the extra: pip install 'acme-milter[testca]' ({error})"
        ) from error

    parsed = Options(eab=_bindings(eab), chaos=knobs, resolver=resolver, reply_dkim=reply_dkim, **options)  # type: ignore[arg-type]  # click has checked them
    raise SystemExit(serve(parsed))


def _bindings(settings: tuple[str, ...]) -> dict[str, bytes]:
    bindings = {}
    for setting in settings:
        kid, sign, mac_key = setting.partition(":")
        try:
            bindings[kid] = from_base64url(mac_key)
        except ValueError as error:
            raise click.UsageError(f"--eab {kid}: the HMAC key is {error}") from error
        if not sign or not kid or not bindings[kid]:
            raise click.UsageError("--eab is KID:HMAC")
    return bindings
