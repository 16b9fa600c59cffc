"""Random initializations of whole models: sparse, echo-state, and the dense standards to compare them with.

Each changes a model in place and returns it, and draws from the generator that it is given (else from torch's own one):

>>> import ravine, torch
>>> model = torch.nn.Sequential(torch.nn.Linear(784, 100), torch.nn.Sigmoid(), torch.nn.Linear(100, 10))
>>> model = ravine.init.sparse_(model, generator=torch.Generator().manual_seed(0))
>>> model[0].weight.count_nonzero(dim=1).unique().tolist()
[15]

What is drawn does not depend on the device or the floating type of the model: draws are made in float64 on the
generator's device, then rounded. Modules without weights of their own kind of units (normalizations, embeddings,
transposed convolutions, attention's joint projection) stay as they are. A parameter that several modules share is set
once.
"""

from ravine.init.dense import DENSE, dense_
from ravine.init.echo_state import echo_state_
from ravine.init.sparse import sparse_, sparse_weight_

__all__ = ["DENSE", "dense_", "echo_state_", "sparse_", "sparse_weight_"]
