"""What runs beside the accelerator; depends on nothing else of vitessera.

    from vitessera.host import Accelerator

accelerator.py   runs a compiled model, on a board or on its simulated RTL
driver.py        the PYNQ driver of the IP: registers, interrupt, time limits, errors
build.py         what is needed of a build directory; bounds.py, what its program may reach
clock.py         whether the fabric has the clock that it was built for
inputs.py        what users hand over, to float images; images.py, imagesets.py, preprocessing.py
results.py       predictions and profiles; progress.py, how far a run has come
board.py         which board this is, and who may use it
loops.py         event loops
errors.py        everything that is raised on purpose
reading.py       what libraries raise over a file, as an error of ours
text.py          names from elsewhere, as they may be shown
interface.py     what bitstream, program and host agree on by name
"""

from .accelerator import Accelerator
from .results import Prediction, Profile

__all__ = ["Accelerator", "Prediction", "Profile"]
