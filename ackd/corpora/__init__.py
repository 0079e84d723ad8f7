"""Texts to pre-train on: cut into chunks, kept as tokens on disk, scored and refined, or written anew by a teacher.

References:
    Gu et al., MiniPLM: Knowledge Distillation for Pre-Training Language Models, 2025,
    https://arxiv.org/abs/2410.17215
"""

from ackd.corpora.chunks import cut, encode, retokenised
from ackd.corpora.corpus import Corpus, find_corpus, open_corpus, tokenised, write_corpus
from ackd.corpora.refine import differences, kept
from ackd.corpora.scores import BLOCK, Scores, open_scores, read_values, score, shard
from ackd.corpora.task import LANGUAGE, language_task, part
from ackd.corpora.text import Document, documents
from ackd.corpora.writing import Writing, write

__all__ = [
    "BLOCK",
    "LANGUAGE",
    "Corpus",
    "Document",
    "Scores",
    "Writing",
    "cut",
    "differences",
    "documents",
    "encode",
    "find_corpus",
    "kept",
    "language_task",
    "open_corpus",
    "open_scores",
    "part",
    "read_values",
    "retokenised",
    "score",
    "shard",
    "tokenised",
    "write",
    "write_corpus",
]
