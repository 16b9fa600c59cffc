"""The checks by family. Importing this package registers them in the order of the table."""

from ravine.testing.checks import equations as equations  # isort: skip
from ravine.testing.checks import layouts as layouts  # isort: skip
from ravine.testing.checks import gradients as gradients  # isort: skip
from ravine.testing.checks import checkpoints as checkpoints  # isort: skip
from ravine.testing.checks import options as options  # isort: skip
from ravine.testing.checks import costs as costs  # isort: skip
