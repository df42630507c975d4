from .batches import PairBatches as PairBatches
from .batches import encode as encode
from .batches import pooled_of as pooled_of
from .pairs import encode_pairs as encode_pairs
