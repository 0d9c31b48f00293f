"""`llma auth login`, `logout`, `status`: users by a browser or another device, workloads by a token file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.enumerations import role_name
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.session import Session
from llmariner.cli.support.terminal import write_stderr

if TYPE_CHECKING:
    from llmariner.cli.sign_in.issuer import IssuerClient
    from llmariner.cli.sign_in.token_store import SignIn

__all__ = ["login", "logout", "status"]

_WAIT_SECONDS = 300.0


@click.command(cls=Command)
@click.option("--no-open", is_flag=True, help="Open no browser: show an address and a code for another device.")
@click.option(
    "--token-file",
    metavar="FILE",
    help="For a workload (CI): exchange the token in this file, which its own issuer renews.",
)
@click.option(
    "--connector", metavar="ID", default="", help="With --token-file: Dex' connector for that token's issuer."
)
@click.option(
    "--subject-token-type",
    type=click.Choice(["id_token", "access_token", "jwt"]),
    default="id_token",
    help="With --token-file: what kind of token it holds; id_token unless given.",
)
@click.option(
    "--same-platform", is_flag=True, help="The endpoint is another name of a platform that you are signed in to."
)
@pass_session
def login(
    session: Session,
    no_open: bool,
    token_file: str | None,
    connector: str,
    subject_token_type: str,
    same_platform: bool,
) -> None:
    """Sign in to the platform at the endpoint.

    The token is stored in a file that only you can read, and is renewed automatically.
    """
    issuer, client_id, scopes = _configuration(session)
    if not same_platform:
        _check_token_is_for_one_platform(session, issuer, client_id)
    if token_file:
        from llmariner.cli.sign_in.token_refresh import exchange_token_file
        from llmariner.cli.sign_in.token_store import SignIn

        template = SignIn(issuer, client_id, "", "", _absolute_path(token_file), connector, subject_token_type)
        new_sign_in = exchange_token_file(template, scopes)
    else:
        new_sign_in = _sign_in_interactively(issuer, client_id, scopes, no_open=no_open)
    file = session.sign_in_file()
    with file.lock():
        file.put(session.target().endpoint, new_sign_in)
    session.reset_target()
    _report(session, new_sign_in)
    _warn_if_no_access(session)


@click.command(cls=Command)
@pass_session
def logout(session: Session) -> None:
    """Sign out of the platform at the endpoint.

    The refresh token is revoked where the issuer supports that.
    """
    from llmariner.cli.sign_in.issuer import IssuerClient, OAuthError

    file, endpoint = session.sign_in_file(), session.target().endpoint
    with file.lock():
        found = file.get(endpoint)
        if found is None:
            session.printer.print_message(
                {"endpoint": endpoint, "signed_out": False}, f"Nobody is signed in to {endpoint}."
            )
            return
        file.put(endpoint, None)
    revoked = False
    if found.refresh_token:
        try:
            with IssuerClient(found.issuer, found.client_id) as issuer:
                revoked = issuer.revoke(found)
        except (CommandError, OAuthError) as failure:
            write_stderr(f"Warning: {failure}; the refresh token ends when the issuer lets it.")
    session.printer.print_message(
        {"endpoint": endpoint, "signed_out": True, "revoked": revoked},
        f"Signed out of {endpoint} as {found.display_name}.",
    )


@click.command(cls=Command)
@pass_session
def status(session: Session) -> None:
    """Show your identity and roles on the platform."""
    target = session.authenticated_target()
    if target.api_key_source is None:
        raise CommandError(
            ExitCode.DENIED,
            f"nobody is signed in to {target.endpoint}, and there is no API key for it.",
            next_step="sign in with `llma auth login`, or set LLMARINER_API_KEY.",
        )
    user = session.api().get("users:getSelf")
    sign_in = target.sign_in
    document: dict[str, Any] = {
        "endpoint": target.endpoint,
        "credential": "sign_in" if sign_in else "api_key",
        "credential_source": target.api_key_source,
        "user": user,
        "issuer": sign_in.issuer if sign_in else None,
        "expires_at": sign_in.expires_at if sign_in else None,
        "renewable": bool(sign_in.refresh_token or sign_in.token_file) if sign_in else None,
        "organization": target.organization or None,
        "project": target.project or None,
    }
    session.printer.print_details(document, _status_fields(document))


def _configuration(session: Session) -> tuple[str, str, list[str]]:
    """Issuer, client id and scopes from the platform's public configuration."""
    try:
        found = session.anonymous_api().get("auth/configuration")
    except CommandError as error:
        if error.code is ExitCode.NOT_FOUND:
            raise _no_issuer(session) from error
        raise
    if not found.get("issuer"):
        raise _no_issuer(session)
    scopes = [str(scope) for scope in found.get("scopes") or ["openid"]]
    return str(found["issuer"]), str(found["client_id"]), scopes


def _check_token_is_for_one_platform(session: Session, issuer: str, client_id: str) -> None:
    """Raise CommandError where another server of the token file has the same issuer and client.

    The endpoint reports its own issuer and client, so a malicious one could report another platform's and use the token
    there.
    """
    endpoint = session.target().endpoint
    if others := session.sign_in_file().other_servers(endpoint, issuer, client_id):
        raise CommandError(
            ExitCode.DENIED,
            f"{endpoint} names the issuer {issuer} and the client {client_id!r}, by which you are signed in to {others[0]}: "
            "it could use your token there.",
            next_step=f"if both are one platform, add --same-platform; else do not sign in to {endpoint}.",
        )


def _no_issuer(session: Session) -> CommandError:
    return CommandError(
        ExitCode.REJECTED,
        f"nobody can sign in to {session.target().endpoint}: it has no issuer of tokens.",
        next_step="use an API key: set LLMARINER_API_KEY, or `llma context set --api-key -`.",
    )


def _sign_in_interactively(issuer: str, client_id: str, scopes: list[str], *, no_open: bool) -> SignIn:
    from llmariner.cli.sign_in.issuer import IssuerClient, OAuthError

    with IssuerClient(issuer, client_id, scopes) as client:
        try:
            if no_open and client.supports_device_flow:
                return client.device_sign_in(_show_code)
            return _sign_in_by_browser(client, no_open=no_open)
        except OAuthError as refused:
            raise CommandError(
                ExitCode.DENIED,
                f"the issuer {issuer} did not sign you in ({refused}).",
                next_step="run `llma auth login` again, or ask who administers the issuer.",
            ) from refused


def _sign_in_by_browser(issuer: IssuerClient, *, no_open: bool) -> SignIn:
    import webbrowser

    from llmariner.cli.sign_in.issuer import AuthorizationRequest
    from llmariner.cli.sign_in.loopback_redirect import CallbackServer

    request = AuthorizationRequest.new()
    with CallbackServer(request.state) as callback:
        url = issuer.authorization_url(request, callback.redirect_uri)
        if no_open or not webbrowser.open(url):
            write_stderr(f"Open this address in a browser on this machine:\n\n  {url}\n")
        else:
            write_stderr(f"Your browser was opened to sign in. If it shows nothing, open:\n\n  {url}\n")
        answer = callback.wait(_WAIT_SECONDS)
        if answer is None:
            raise CommandError(
                ExitCode.DENIED,
                f"nobody signed in within {_WAIT_SECONDS / 60:.0f} minutes.",
                next_step="run `llma auth login` again; on a machine without a browser add --no-open.",
            )
        new_sign_in = issuer.exchange_code(request, answer, callback.redirect_uri)
        callback.show_success(new_sign_in.display_name)
        return new_sign_in


def _show_code(url: str, code: str, with_code: str) -> None:
    text = f"On any device, open {url} and enter the code {code}"
    write_stderr(f"{text}\n(or open {with_code})" if with_code else text)


def _report(session: Session, new_sign_in: SignIn) -> None:
    target = session.target()
    document: dict[str, Any] = {
        "endpoint": target.endpoint,
        "issuer": new_sign_in.issuer,
        "user": new_sign_in.display_name,
        "expires_at": new_sign_in.expires_at,
        "file": str(session.sign_in_file().path),
    }
    session.printer.print_message(document, f"Signed in to {target.endpoint} as {new_sign_in.display_name}.")
    if target.sign_in is None:
        write_stderr(f"Note: {target.api_key_source} holds an API key, which goes before a sign-in.")
    elif target.endpoint_source == "--endpoint":
        write_stderr(f"To stay there: llma context set --endpoint {target.endpoint}")


def _warn_if_no_access(session: Session) -> None:
    """Print a note where the user signed in but has no access, such as without any membership."""
    if session.target().sign_in is None:
        return
    try:
        session.api().get("users:getSelf")
    except CommandError as error:
        write_stderr(f"Note: the platform lets you do nothing yet: {error.message}")


def _status_fields(document: dict[str, Any]) -> dict[str, Any]:
    from llmariner.cli.support.output import format_timestamp

    user = document["user"]
    shown = {
        "user": user.get("id"),
        "user id": user.get("internal_id"),
        "organization roles": _roles(user.get("organization_role_bindings"), "organization"),
        "project roles": _roles(user.get("project_role_bindings"), "project"),
        "organization": document["organization"] or "the default one",
        "project": document["project"] or "the default one",
        "endpoint": document["endpoint"],
        "from": document["credential_source"],
    }
    if document["credential"] == "sign_in":
        seconds_left = max(0, int(document["expires_at"] - time.time()))
        renewal = "renewed by itself" if document["renewable"] else "not renewed"
        shown |= {
            "issuer": document["issuer"],
            "token until": f"{format_timestamp(document['expires_at'])} ({seconds_left // 60} min, {renewal})",
        }
    return shown


def _roles(bindings: Any, kind: str) -> str:
    """The role bindings as text: `owner of Default Organization, reader of Others`."""
    found = [each for each in bindings or [] if isinstance(each, dict)]
    roles = [(role_name(each), each.get("title") or each.get(f"{kind}_id")) for each in found]
    return ", ".join(f"{role} of {title}" for role, title in roles) or "none"


def _absolute_path(path: str) -> str:
    from pathlib import Path

    if path == "-":
        raise click.UsageError("--token-file needs a file: its token is read again whenever yours must be renewed.")
    return str(Path(path).expanduser().absolute())
