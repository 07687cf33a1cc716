"""What to do about a certificate that was refused, by us or by the server."""

from __future__ import annotations

from dataclasses import dataclass

_OTHER_NAME = (
    "hostname mismatch",
    "ip address mismatch",
    "does not match host name",
    "doesn't match",
)
_UNKNOWN = ("certificate verify failed", "fingerprints did not match")
_WANTED = ("certificate required", "certificate_required", "did not provide a certificate")
_PLAIN = ("wrong version number", "wrong_version_number", "does not support ssl")


@dataclass(frozen=True)
class Trust:
    """Where one service's settings say whom to trust.

    `setting` has its address, `authority` names the authority's certificate and `client` our own.
    """

    setting: str
    authority: str
    client: str

    def advice(self, said: str) -> str:
        """What to do where a driver `said` that a certificate is the matter; else nothing."""
        text = said.lower()
        if any(words in text for words in _OTHER_NAME):
            return (
                f"The server's certificate is for another name: write that name in {self.setting}."
            )
        if "certificate has expired" in text:
            return "The server's certificate has expired: renew it there."
        if any(words in text for words in _UNKNOWN):
            return (
                "The server's certificate is not from an authority that this process trusts, or "
                f"has expired. Name the right authority: {self.authority}."
            )
        if any(words in text for words in _WANTED):
            return f"The server wants a certificate from its clients: {self.client}."
        if any(words in text for words in _PLAIN):
            return f"The server does not speak TLS there: look at the port in {self.setting}."
        return ""

    def explained(self, said: str) -> str:
        """What the driver said, and what to do about it."""
        advice = self.advice(said)
        return f"{said.rstrip('. ')}. {advice}" if advice else said
