"""What an export gets beside its adapter: what to compare with, a full model, certificates.

Each is done on a folder with an `export.json`, in a run or anywhere else, and written into it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from visual_r1.errors import RunError
from visual_r1.exports.adapter import scaled_loras
from visual_r1.exports.base import load_base_index
from visual_r1.exports.certificate import certify
from visual_r1.exports.merging import merge
from visual_r1.exports.record import (
    MERGED,
    REFERENCE_NAME,
    Certificate,
    Export,
    described,
    write_record,
)
from visual_r1.exports.reference import Scored, read_reference, write_reference
from visual_r1.progress import Progress


def with_reference(place: Path, made: Export, scored: Sequence[Scored]) -> Export:
    """Keep what the server says of some prompts beside the adapter."""
    write_reference(place, scored)
    made = replace(made, reference=described(place, REFERENCE_NAME), certificates=())
    write_record(place, made)
    return made


def with_merged(place: Path, made: Export, progress: Progress) -> Export:
    """Write the full model, see `merging`; a certificate of an earlier one no longer counts."""
    index = load_base_index(made.base_model)
    kept = tuple(one for one in made.certificates if one.of != "merged")
    if made.merged is not None:
        # Before another takes its place: the record says nothing of what is not there.
        write_record(place, replace(made, merged=None, certificates=kept))
    merged = merge(scaled_loras(place / made.adapter, index), index, place, progress)
    made = replace(made, merged=merged, certificates=kept)
    write_record(place, made)
    return made


def with_certificates(place: Path, made: Export, progress: Progress) -> Export:
    """Compare adapter and, where there is one, full model with what the server said.

    A certificate that does not hold is kept as well: see `require_proved`. Raises `DataError` where
    there is nothing to compare with.
    """
    index, scored = load_base_index(made.base_model), read_reference(place)
    adapter = place / made.adapter
    found: list[Certificate] = [certify(adapter, None, index, scored, progress)]
    if made.merged is not None:
        found.append(certify(adapter, place / MERGED, index, scored, progress))
    made = replace(made, certificates=tuple(found))
    write_record(place, made)
    return made


def require_proved(place: Path, made: Export) -> None:
    """Raise `RunError` where a certificate does not hold."""
    for one in made.certificates:
        if not one.passed:
            raise RunError(
                f"The {one.subject} in {place} was compared with the server, and {one.verdict}: do "
                "not use it. Export it again; where that does not help, the server computes "
                "otherwise than transformers, or its export is not what it samples with."
            )
