"""Nearest distances by faiss and by scikit-learn."""

import time
from typing import Any

import numpy as np

from benchmarks.arrays import Arrays


class Faiss:
    """IndexFlatL2: exact search, the index filled anew at every search, as ours takes the bank anew."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays, rival: str) -> None:
        import faiss

        faiss.omp_set_num_threads(settings["threads"])
        self.index, self.arrays, self.settings = faiss.IndexFlatL2, arrays, settings

    def search(self) -> np.ndarray:
        index = self.index(self.settings["columns"])
        index.add(self.arrays["bank"])
        squares, _ = index.search(self.arrays["queries"], self.settings["k"])
        return np.sqrt(squares)

    def check(self) -> Arrays:
        return {"distances": self.search()}

    def run(self, count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            self.search()
        return time.perf_counter() - start


class ScikitLearn(Faiss):
    """NearestNeighbors by brute force."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays, rival: str) -> None:
        from sklearn.neighbors import NearestNeighbors

        self.neighbors, self.arrays, self.settings = NearestNeighbors, arrays, settings

    def search(self) -> np.ndarray:
        neighbors = self.neighbors(n_neighbors=self.settings["k"], algorithm="brute")
        return neighbors.fit(self.arrays["bank"]).kneighbors(self.arrays["queries"])[0]
