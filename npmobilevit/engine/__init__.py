"""The fast engine: the network as a prepared plan of NumPy calls, to be read bottom-up.

:mod:`folding` states the identities that move work into the weights, and :mod:`folded` applies them to a network.
:mod:`layout` says how maps lie in memory, :mod:`kernels` adds one operation each to a :mod:`program`, and
:mod:`blocks`, :mod:`mobilevit`, :mod:`heads` and :mod:`plan` put them together for one size. :mod:`crews` runs a plan
in one thread, several, or several processes, and :mod:`engine` keeps plans and crews.

It is no reference: the readable network makes every golden value, and the suite that judges foreign backends judges
this one, too.
"""

from npmobilevit.engine.engine import WORKERS, Engine, PlanReport, Values, Workers, why_not, why_not_size
from npmobilevit.engine.plan import HIDDEN_STATES

__all__ = ["HIDDEN_STATES", "WORKERS", "Engine", "PlanReport", "Values", "Workers", "why_not", "why_not_size"]
