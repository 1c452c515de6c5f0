"""Whether a provider tells its own requests from all others."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from shared.conformance import forgeries, soundness
from shared.conformance.damage import damaged
from shared.conformance.fixtures import Fixture
from shared.conformance.subject import NOW, TOLERANCE_S, Subject, none, telling
from shared.domain.events import Headers
from shared.providers.base import CAUSES, SignatureError, Suspect

_CODES = {
    "missing_signature", "malformed_signature", "timestamp_too_old", "timestamp_in_future",
    "wrong_signature",
}  # fmt: skip


class SignatureProofs(Subject):
    """Right and wrong secrets, bodies, headers and times."""

    def test_the_right_secret_is_found(self, delivered: Fixture) -> None:
        """Each of several, by its index; twice the same, and whatever the clock says."""
        provider = self.subject
        for index, secret in enumerate(self.secrets):
            for now in (NOW, NOW - timedelta(days=9000), NOW + timedelta(days=9000)):
                headers = delivered.signed(provider, secret, now)
                for name, value in headers:
                    assert name == name.lower() and isinstance(value, str), f"header {name!r}"
                for _ in range(2):
                    found = provider.verify(headers, delivered.body, self.secrets, now, TOLERANCE_S)
                    assert found == index
                assert provider.verify(headers, delivered.body, [secret], now, TOLERANCE_S) == 0
        reply = provider.handshake(headers, delivered.body)
        assert reply is None, "an event is taken for a handshake, and would not be stored"

    def test_a_forgery_is_refused(self, delivered: Fixture) -> None:
        """Another secret, another body, another header: SignatureError, and nothing else."""
        provider, body = self.subject, delivered.body
        right, *others = self.secrets
        headers = delivered.signed(provider, right, NOW)
        for secrets in (others, [""], ["\0"], [*others, ""], []):
            self.refused(headers, body, secrets, f"secrets {len(secrets)}")
        if self.signs_body:
            for what, changed in forgeries.changed_bodies(body):
                self.refused(headers, changed, [right], what)
            another = provider.sign(b'{"another": "body"}', right, NOW)
            self.refused(another, body, [right], "the signature of another body")
        proven = frozenset(name for name, _ in provider.sign(body, right, NOW))
        proven -= self.unsigned_headers
        for what, changed_headers, _ in forgeries.changed_headers(
            headers, body, proven, with_digits=self.signs_time
        ):
            self.refused(changed_headers, body, [right], what)
        for what, doubled in forgeries.doubled_headers(headers, proven):
            try:
                assert provider.verify(doubled, body, [right], NOW, TOLERANCE_S) == 0, what
            except SignatureError:
                continue

    def test_a_refusal_has_a_cause(self, delivered: Fixture) -> None:
        """Whatever is refused is diagnosed: with a known cause, twice the same, and no secret."""
        provider, body = self.subject, delivered.body
        right, *others = self.secrets
        headers = delivered.signed(provider, right, NOW)
        self._diagnose(headers, body, [], [Suspect(right, "which is known")], "which is known")
        if self.signs_body:
            self._diagnose(headers, body.rstrip() + b"\n ", [right], [], None)
            self._diagnose(headers, None, others, [], None)
        if self.signs_time:
            early = delivered.signed(provider, right, NOW + timedelta(days=1))
            self._diagnose(early, body, [right], [], None)
        proven = {name for name, _ in provider.sign(body, right, NOW)} - self.unsigned_headers
        for name in sorted(proven):
            for wrong in forgeries.GARBLED[:20]:
                changed = tuple((one, wrong if one == name else value) for one, value in headers)
                self._diagnose(changed, body, [right], [], None)

    def _diagnose(
        self,
        headers: Headers,
        body: bytes | None,
        secrets: Sequence[str],
        suspects: Sequence[Suspect],
        said: str | None,
    ) -> None:
        first, second = (
            self.subject.diagnose(headers, body, secrets, suspects, NOW, TOLERANCE_S)
            for _ in range(2)
        )
        assert first == second, "the same refusal has two causes"
        assert first.cause in CAUSES, f"{first.cause!r} is no cause"
        known = [*self.secrets, *(one.secret for one in suspects)]
        assert not any(one in first.hint for one in known), "the hint holds a secret"
        assert said is None or said in first.hint, f"it was signed by a suspect: {first}"

    def test_the_window_has_two_sides(self, delivered: Fixture) -> None:
        """What was sent too long ago, or will be sent, is refused; the given `now` decides."""
        if not self.signs_time:
            return
        provider, body, secret = self.subject, delivered.body, self.secrets[0]
        headers = delivered.signed(provider, secret, NOW)
        for side, code in ((1, "timestamp_too_old"), (-1, "timestamp_in_future")):
            for tolerance_s in (TOLERANCE_S, 5):
                edge = NOW + side * timedelta(seconds=tolerance_s)
                assert provider.verify(headers, body, [secret], edge, tolerance_s) == 0
                beyond = edge + side * timedelta(seconds=2)
                refused = self.refused(headers, body, [secret], code, beyond, tolerance_s)
                assert refused.code == code

    def test_a_handshake_is_answered(self) -> None:
        """Each as the suite says; and whatever is sent in its place is answered or is none."""
        provider = self.subject
        for body, answer in self.handshakes.items():
            headers = provider.sign(body, self.secrets[0], NOW)
            assert provider.verify(headers, body, self.secrets, NOW, TOLERANCE_S) == 0
            reply = provider.handshake(headers, body)
            none(soundness.faults_of_reply(reply))
            assert reply is not None, "a handshake is taken for an event"
            assert reply.body == answer
            for changed in damaged(body):
                with telling(changed):
                    none(soundness.faults_of_reply(provider.handshake(headers, changed)))

    def refused(
        self,
        headers: Headers,
        body: bytes,
        secrets: Sequence[str],
        what: str,
        now: datetime = NOW,
        tolerance_s: int = TOLERANCE_S,
    ) -> SignatureError:
        """The SignatureError that the request ends in; anything else is a failure of the proof."""
        try:
            self.subject.verify(headers, body, secrets, now, tolerance_s)
        except SignatureError as error:
            assert error.code in _CODES, f"{error.code!r} is no code of SignatureError"
            return error
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}, no SignatureError") from error
        raise AssertionError(f"{what}: accepted")
