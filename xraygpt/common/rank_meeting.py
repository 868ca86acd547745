"""Where the ranks of a run meet: a store in which nothing is left of an earlier life of the run.

torchrun keeps one store and starts the ranks again beside it (--max-restarts). The addresses, the NCCL id and the causes of failure that
killed ranks left there would mislead the new ones, which then wait for each other in vain. TORCHELASTIC_RESTART_COUNT does not tell the
lives apart: on several nodes each torchrun counts its own failures.
"""

import datetime
import time
import uuid

import torch.distributed as dist

from xraygpt.common.errors import TrainingError

_INTERVAL_S = 0.02


def meet(dist_url: str, *, rank: int, world_size: int, timeout: datetime.timedelta) -> dist.Store:
    """The store of the ranks at `dist_url`, for `init_process_group`.

    Raises:
        TrainingError: see `fresh`.
    """
    store, rank, world_size = next(dist.rendezvous(dist_url, rank, world_size, timeout=timeout))
    store.set_timeout(timeout)
    return fresh(store, rank=rank, world_size=world_size, timeout=timeout)


def fresh(store: dist.Store, *, rank: int, world_size: int, timeout: datetime.timedelta) -> dist.Store:
    """A part of `store` that only ranks which live now know of.

    Each rank but the first says hello with a name that it has made up; rank 0 answers each name with the name of this life until all have
    heard it. A hello that an earlier life left is answered too, and nobody reads that.

    Raises:
        TrainingError: on rank 0, if not all have come before the timeout. The others fail with the store's own error.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"xraygpt/hello/{rank}", own)
        life = store.get(f"xraygpt/answer/{own}").decode()
        store.set(f"xraygpt/{life}/here/{rank}", "")
        return dist.PrefixStore(life, store)
    deadline, absent = time.monotonic() + timeout.total_seconds(), set(range(1, world_size))
    while absent:
        if time.monotonic() > deadline:
            raise TrainingError(
                f"The ranks {', '.join(map(str, sorted(absent)))} of {world_size} did not come within {timeout} "
                "(run.dist_timeout_minutes). Look at their own logs, and at the network between the nodes."
            )
        for other in absent:
            if store.check([f"xraygpt/hello/{other}"]):
                store.set(f"xraygpt/answer/{store.get(f'xraygpt/hello/{other}').decode()}", own)
        time.sleep(_INTERVAL_S)
        absent = {other for other in absent if not store.check([f"xraygpt/{own}/here/{other}"])}
    return dist.PrefixStore(own, store)
