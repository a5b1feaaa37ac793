"""Which models a server offers, and what is said where the one that a run names is not among them.

The server tells names, lengths of context, and whether a model trains and samples. Whether it sees,
and what took the place of one that was retired, is in `models.hosted`.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import tinker

from visual_r1.errors import ConfigError
from visual_r1.models import hub_id
from visual_r1.models.hosted import HostedModel, as_of, hosted_model, successor_of


@dataclass(frozen=True, slots=True)
class Offer:
    """A model on offer, by the server's name for it; None is what the server does not tell."""

    name: str
    context_length: int | None = None
    trainable: bool | None = None
    sampleable: bool | None = None


Offers = Mapping[str, Offer]
"""By the server's names."""


def offers_of(capabilities: tinker.types.GetServerCapabilitiesResponse) -> Offers:
    """What a server's capabilities say; an entry without a name is none."""
    return {
        one.model_name: Offer(one.model_name, one.max_context_length, one.trainable, one.sampleable)
        for one in capabilities.supported_models
        if one.model_name
    }


def require_offered(name: str, offers: Offers, *, trains: bool) -> None:
    """Raise `ConfigError` where the server cannot be asked with pictures, or train, as `name`.

    `trains` says that the weights are to be trained too. What neither the server nor `hosted.toml`
    tells is left to the first request with an image.
    """
    offer, known = offers.get(name), hosted_model(name)
    if offer is None:
        why = _not_offered(name, known, offers)
    elif known is not None and not known.sees:
        why = f"The model {name!r} reads text alone, and takes no pictures"
    elif offer.sampleable is False:
        why = f"The server has no sampling capacity for the model {name!r}"
    elif trains and offer.trainable is False:
        why = f"The server samples from the model {name!r} and does not train it"
    else:
        return
    raise ConfigError(f"{why}: {_choose(name, offers, trains=trains)}.")


def _not_offered(name: str, known: HostedModel | None, offers: Offers) -> str:
    says = f"The server does not offer the model {name!r}"
    _, _, suffix = name.partition(":")
    if suffix and any(hub_id(one) == hub_id(name) for one in offers):
        return f"{says}, with this suffix"
    if known is not None and known.retired is not None:
        says += f", which the hosted service retired on {_day(known.retired)}"
    return says


def _choose(name: str, offers: Offers, *, trains: bool) -> str:
    """What to name in its place: with another suffix, the successor, then all that would do."""
    fit = [one for one in sorted(offers) if _would_do(offers[one], trains=trains)]
    same = [one for one in fit if hub_id(one) == hub_id(name) and one != name]
    if same:
        return f"choose --model.name {' or '.join(same)}"
    seeing = [one for one in fit if (known := hosted_model(one)) and known.sees]
    asked = [one for one in seeing if (known := hosted_model(one)) and known.asked_here]
    others = [one for one in seeing if one not in asked]
    untold = [one for one in fit if hosted_model(one) is None]
    beside = "they too" if asked else "of those on offer these take pictures"
    parts = [
        _recommended(name, fit),
        _listed("of those on offer these take pictures", asked),
        _listed(f"{beside}, but their prompts are not known here", others),
        _listed(f"whether these do, the list of {_day(as_of())} does not know", untold),
    ]
    if not fit:
        parts.append(f"none of those on offer would do ({', '.join(sorted(offers)) or 'none'})")
    chosen = "; ".join(part for part in parts if part)
    return chosen if "--model.name" in chosen else f"choose another --model.name; {chosen}"


def _would_do(offer: Offer, *, trains: bool) -> bool:
    known = hosted_model(offer.name)
    sees = known is None or known.sees
    return sees and offer.sampleable is not False and not (trains and offer.trainable is False)


def _recommended(name: str, fit: Sequence[str]) -> str:
    """The successor of a retired model, or the model whose name was meant."""
    successor = successor_of(name)
    if successor is None:
        near = _nearest(name, fit)
        return f"did you mean --model.name {near}" if near else ""
    there = [one for one in fit if hub_id(one) == successor.name]
    off = f" --model.thinking {successor.thinking}" if successor.thinking else ""
    if not there:
        return f"its successor is {successor.name}, which this server does not offer either"
    return f"take its successor, --model.name {there[0]}{off}"


def _nearest(name: str, among: Sequence[str]) -> str | None:
    """The same name but for its case or owner, else one that is spelt much like it."""
    by_spelling = {one.lower(): one for one in among}
    bare = {one.rpartition("/")[2]: one for one in by_spelling}
    if (spelt := name.lower().rpartition("/")[2]) in bare:
        return by_spelling[bare[spelt]]
    close = difflib.get_close_matches(name.lower(), by_spelling, n=1, cutoff=0.85)
    return by_spelling[close[0]] if close else None


def _listed(says: str, names: Sequence[str]) -> str:
    return f"{says}: {', '.join(names)}" if names else ""


def _day(day: date) -> str:
    return f"{day.day} {day:%B %Y}"
