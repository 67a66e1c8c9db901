"""Everything about the garbage collector: full collections are rare and small, and requests leave it nothing."""

import gc


def calm_collector() -> None:
    """Keep full garbage collections rare and small: each stops the event loop for as long as it looks.

    What the start has made stays, so it need not be looked at again; what a request makes is gone before a young
    collection comes, syntax trees of large documents among it, instead of growing old.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def collect_young() -> None:
    """Collect what was made last: objects that hold each other, while finding them costs little.

    Later they could only be found by a search through everything else that lives.
    """
    gc.collect(0)
