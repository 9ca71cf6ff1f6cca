"""TLS of every connection that the gateway makes: the context, what a failure means, and what the peer showed.

Each failure names its cause and the way out. Nothing here ever accepts what OpenSSL refuses.
"""

from __future__ import annotations

import ssl
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from ds_gateway import clock
from ds_gateway.errors import CertificateError
from ds_gateway.plain_files import open_plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from ds_gateway.config.server import TlsSettings

# Numbers of X509_verify_cert (x509_vfy.h), which are the same in every OpenSSL.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_SELF_SIGNED: Final = 18
_AUTHORITY_UNKNOWN: Final = frozenset({2, 19, 20, 21})
_OTHER_NAME: Final = frozenset({62, 63, 64})

_DER: Final = 2
"""``_ssl.ENCODING_DER``."""
_NO_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
)
"""What OpenSSL says when the bytes of the other side are no TLS."""
_NO_VERSION: Final = frozenset(
    {"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE", "VERSION_TOO_LOW"}
)


def client_context(settings: TlsSettings, *, key: str = "tls") -> ssl.SSLContext:
    """Build a context from the files as they are now.

    ``key`` is where the settings stand in the configuration. Raises `CertificateError` that names the file at
    fault.
    """
    if settings.ca is not None:
        _must_be_readable(settings.ca, key)
    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(
            f"{key}.ca: {settings.ca} has no certificate in PEM form ({_word(error)})"
        ) from error
    if settings.cert is not None and settings.key is not None:
        _must_be_readable(settings.cert, key)
        _must_be_readable(settings.key, key)
        try:
            # A key with a passphrase would be asked for on the terminal: nobody is there.
            context.load_cert_chain(settings.cert, settings.key, password=_no_passphrase)
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(
                f"{key}.cert and {key}.key: {settings.cert} and {settings.key} are not a certificate and its key "
                f"in PEM form, without a passphrase ({_word(error)})"
            ) from error
    return context


def explain(
    error: BaseException,
    *,
    peer: str,
    key: str = "tls",
    is_synchronised: Callable[[], bool] | None = None,
    now: Callable[[], float] = time.time,
) -> str | None:
    """Why a handshake failed, and what to do; None for an error that is not TLS's.

    ``peer`` is how people call the other side (the server, the broker), ``key`` where its certificates stand in
    the configuration. ``is_synchronised`` says whether this machine's clock is; None: the machine is asked.
    """
    match error:
        case ssl.SSLCertVerificationError():
            cause = _refused(error, peer, key, is_synchronised or clock.is_synchronised, now)
            return f"{peer}'s certificate is not accepted: {cause}"
        case ssl.SSLError():
            return _failed(error.reason or "", peer, key) or _word(error)
        case _:
            return None


def _refused(
    error: ssl.SSLCertVerificationError,
    peer: str,
    key: str,
    is_synchronised: Callable[[], bool],
    now: Callable[[], float],
) -> str:
    """Why this side does not accept a certificate."""
    said = str(error.verify_message)
    code = error.verify_code
    if code in {_NOT_YET_VALID, _EXPIRED}:
        what = "it is not valid yet" if code == _NOT_YET_VALID else "it, or an authority of its, has expired"
        shows = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now()))
        if not is_synchronised() and code == _EXPIRED:
            return (
                f"{what} by this machine's clock, which is not synchronised and shows {shows}: if that is right, "
                f"renew it at {peer}; if not, see that a time service (NTP) is reached"
            )
        if not is_synchronised():
            return (
                f"{what} by this machine's clock, which is not synchronised and shows {shows}; it is tried again "
                "and accepted when the time is right: see that a time service (NTP) is reached"
            )
        if code == _NOT_YET_VALID:
            return f"{what}, and this machine's clock, which is synchronised, shows {shows}: see its dates"
        return f"{what} (it is {shows}): renew it at {peer}"
    if code == _SELF_SIGNED:
        return f"it is self-signed, and no authority vouches for it: if it is the right one, put it into {key}.ca"
    if code in _AUTHORITY_UNKNOWN:
        return (
            f"none of the authorities in {key}.ca, or of the system's without it, vouches for it ({said}): put "
            f"the authority's certificate into {key}.ca, or let {peer} send its intermediate certificates; "
            "something on the way that opens TLS, or a captive portal, shows one of its own, too"
        )
    if code in _OTHER_NAME:
        return (
            f"it is for another name ({said.rstrip('.')}): see the host in the URL; a captive portal or a wrong "
            "address answers like this, too"
        )
    return f"{said} (see {key}.ca)"


def _failed(reason: str, peer: str, key: str) -> str | None:
    """Why the handshake broke off, from OpenSSL's word for it."""
    if "CERTIFICATE_REQUIRED" in reason:
        return f"{peer} wants a client certificate (see {key}.cert and {key}.key)"
    if "ALERT_CERTIFICATE_EXPIRED" in reason:
        return f"{peer} says that the client certificate has expired: renew {key}.cert, which is read again then"
    if "ALERT_UNKNOWN_CA" in reason:
        return f"{peer} does not know the authority of the client certificate in {key}.cert"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "ACCESS_DENIED" in reason):
        return f"{peer} refuses the client certificate in {key}.cert ({_plain(reason)})"
    if "HANDSHAKE_FAILURE" in reason:
        return (
            f"{peer} refuses the handshake: it may want a client certificate (see {key}.cert and {key}.key), or "
            "has no cipher in common with this machine"
        )
    if reason in _NO_TLS:
        return (
            f"{peer} does not speak TLS on this port: see the scheme and the port in the URL; something on the "
            "way, as a captive portal, can answer like this, too"
        )
    if reason in _NO_VERSION:
        return f"{peer} has no version of TLS in common with this machine, which wants TLS 1.2 or newer"
    if reason == "UNEXPECTED_EOF_WHILE_READING":
        return f"{peer} ended the connection in the middle of TLS: see its log, or what is on the way"
    return _plain(reason) if reason else None


def peer_chain(connection: Any) -> tuple[bytes, ...]:
    """The certificates by which a peer was accepted, in DER, its own first, then its authorities'.

    ``connection`` is an `ssl.SSLSocket` or `ssl.SSLObject`, after the handshake. Where Python does not give them
    away (before 3.13 it needs a private name) it is the first one alone.
    """
    public = getattr(connection, "get_verified_chain", None)
    if public is not None and sys.version_info >= (3, 13):
        return tuple(public())
    inner = getattr(connection, "_sslobj", None)
    private = getattr(inner, "get_verified_chain", None)
    if private is not None:
        found = [each.public_bytes(_DER) for each in private() or ()]
        if found:
            return tuple(found)
    own = connection.getpeercert(binary_form=True)
    return () if own is None else (own,)


def _word(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return _plain(reason) if isinstance(reason, str) else error.strerror or str(error) or type(error).__name__


def _plain(reason: str) -> str:
    return reason.lower().replace("_", " ")


def _no_passphrase() -> str:
    return ""


def _must_be_readable(path: str, key: str) -> None:
    try:
        open_plain(path).close()
    except OSError as error:
        raise CertificateError(f"{key}: cannot read {path}: {error.strerror}") from error
