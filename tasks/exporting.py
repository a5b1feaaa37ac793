"""What is asked for besides an adapter: a full model, proof, the hub. No flow is needed for it."""

from dataclasses import dataclass
from pathlib import Path

from visual_r1.config import RunConfig
from visual_r1.exports.record import Export, damage_of_merged
from visual_r1.printing import say
from visual_r1.progress import open_progress


@dataclass(frozen=True, slots=True)
class Wishes:
    """What an export is to get: a full model, certificates, a repository of the hub."""

    merge: bool = False
    check: bool = False
    push: str | None = None

    def require_possible(self) -> None:
        """Raise `ConfigError` where nothing could be pushed; asks no server."""
        if self.push is not None:
            from visual_r1.exports.hub import require_hub

            require_hub(self.push)


def complete(place: Path, made: Export, wishes: Wishes, config: RunConfig | None) -> str | None:
    """Give the export in `place` what is wished, and its card; the URL where it was pushed.

    For who is `alone_in` the folder, and read what was `made` since.
    Nothing is pushed that was compared and does not agree: raises `RunError` then, and as
    `visual_r1.exports` for what cannot be done.
    """
    # Here and not above: torch, transformers and peft take seconds.
    from visual_r1.exports.complete import require_proved, with_certificates, with_merged
    from visual_r1.exports.hub import licence_of, push
    from visual_r1.report.model_card import write_card

    with open_progress() as progress:
        if wishes.merge and (made.merged is None or damage_of_merged(place, made.merged)):
            made = with_merged(place, made, progress)
        if wishes.check:
            made = with_certificates(place, made, progress)
    licence = licence_of(made.base_model, ask=wishes.push is not None)
    write_card(place, made, licence, config)
    require_proved(place, made)
    for one in made.certificates:
        say(f"{one.subject}: {one.verdict}")
    if wishes.push is None:
        return None
    url = push(place, made, wishes.push)
    say(f"pushed to {url}, private")
    return url
