"""From an embedding to items: exact search, and faiss's."""

from torchrl_drpo.policies.decoding.approximate import FaissDecoder
from torchrl_drpo.policies.decoding.exact import MIPSDecoder

__all__ = ["FaissDecoder", "MIPSDecoder"]
