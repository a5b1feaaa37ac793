"""What a run costs, between its chunks and at its end: its budget, and the server's bill."""

from dataclasses import asdict

from tasks.records.events import happened
from visual_r1.backend.backend import open_backend
from visual_r1.config import RunConfig
from visual_r1.data.dataset import Dataset
from visual_r1.doctor.budget import budget_end
from visual_r1.errors import BackendError, BudgetReached
from visual_r1.printing import open_logger
from visual_r1.runs.bill import settle_bill as settle_bill_of
from visual_r1.runs.ledger import LedgerRow
from visual_r1.runs.stored import ask_stored

logger = open_logger("visual_r1.tasks")


def heed_budget(config: RunConfig, dataset: Dataset, checkpoint: LedgerRow) -> bool:
    """Whether the run ends at `checkpoint` by its budget; the event `budget.reached` says so."""
    end = budget_end(config, dataset, checkpoint)
    if end is not None:
        happened(config, "budget.reached", end.sentence, asdict(end))
    return end is not None


def require_budget(config: RunConfig, dataset: Dataset, checkpoint: LedgerRow) -> None:
    """Raise `BudgetReached` where the run would end by its budget, and is wanted further."""
    end = budget_end(config, dataset, checkpoint)
    if end is not None:
        raise BudgetReached(end.sentence)


def settle_bill(config: RunConfig) -> None:
    """What a remote server has billed for the run so far, and stores of it, where it says so.

    Nothing of the run depends on it: that the hosted service does not say is a warning.
    """
    with open_backend(config) as backend:
        settle_bill_of(config, backend)
        if backend.kind == "embedded":
            return
        try:
            ask_stored(config, backend)
        except BackendError as error:
            logger.warning("What the checkpoints take of the server is not told: %s", error)
