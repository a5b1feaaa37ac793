"""A run's own copies of the user's files: with another reward or prompt it would be another run.

Their names are part of the configuration; what they hold is not, so the run keeps the files it
began with, and a start with others is refused. Modules that a reward's file imports are not
compared.
"""

from pathlib import Path

from visual_r1.config import RunConfig
from visual_r1.errors import RunError
from visual_r1.prompts.templates import own_template
from visual_r1.rewards import load_custom
from visual_r1.storage import replaced_whole


def require_same_files(config: RunConfig) -> None:
    """Raise `RunError` where a file of the user's is another than the run's copy of it.

    Where there is no copy there is nothing to compare: removing it is how to go on all the same.
    """
    for name, source in _sources(config).items():
        copy = config.run_dir / name
        if copy.exists() and copy.read_bytes() != source.read_bytes():
            raise RunError(
                f"{source} has changed since {config.run_dir} began with it, and with it this is "
                f"another run: put back what {copy} holds, choose another --run.name, or remove "
                f"{copy} to go on with the new one."
            )


def keep_files(config: RunConfig, run_dir: Path, *, anew: bool) -> None:
    """Copy the user's files into the run's folder, where there is no copy yet.

    `anew` says that the run begins here, so that older copies no longer count.
    """
    for name, source in _sources(config).items():
        copy = run_dir / name
        if anew or not copy.exists():
            with replaced_whole(copy) as temporary:
                temporary.write_bytes(source.read_bytes())


def _sources(config: RunConfig) -> dict[str, Path]:
    """The user's own files by the names of their copies."""
    second = config.second_pass
    found = {
        "custom_reward.py": load_custom(config.reward.custom).file
        if config.reward.custom is not None
        else None,
        "prompt_template.txt": own_template(config.prompt.template),
    }
    if second.enabled:
        found["second_pass_template.txt"] = own_template(second.template)
        if second.minus_question_only:
            found["question_only_template.txt"] = own_template(second.question_only_template)
    return {name: source for name, source in found.items() if source is not None}
