"""Validation rows and checkpoints of a made-up run."""

from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.validations import ValidationRow


def row(step: int, accuracy: float = 0.5, take: int = 0) -> ValidationRow:
    return ValidationRow(
        step=step,
        n=4,
        correct=round(4 * accuracy),
        accuracy=accuracy,
        accuracy_ci95=(0.2, 0.8),
        blind_n=0,
        blind_accuracy=None,
        blind_accuracy_ci95=None,
        format_rate=1.0,
        mean_response_tokens=30.5,
        truncated=0,
        gave_up=0,
        failed=0,
        right="1100",
        sampler_path=path(step, take),
        seconds=1.5,
        created_at="2026-05-01T10:00:00+00:00",
    )


def path(step: int, take: int = 0) -> str:
    return f"tinker://m:train:{take}/sampler_weights/step-{step:06d}"


def checkpoint(step: int, take: int = 0) -> LedgerRow:
    return LedgerRow(
        step=step,
        state_path=f"tinker://m:train:{take}/weights/step-{step:06d}",
        sampler_path=path(step, take),
        expires_at="2026-05-08T10:00:00+00:00",
        config_digest="c0ffee00",
        dataset_digest="da7a5e7",
        backend="embedded",
        created_at="2026-05-01T10:00:00+00:00",
        updates=step,
    )
