"""Facts about the published methods, both the presets and the methods that are commands of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ackd.errors import InputError, unknown

MOST = 8  # most teachers for methods that learn teacher weights


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published method.

    Args:
        name: its name on the command line.
        paper: title of the paper.
        year: year of publication.
        link: link to the paper.
        does: a short description of the method.
        cost: cost of one step, compared with plain distillation.
        known: how certain the formulas and defaults are.
        unknown: details that the sources leave open.
        teachers: number of teachers, as (least, most).
    """

    name: str
    called: str
    paper: str
    year: int
    link: str
    does: str
    cost: str
    known: str
    unknown: str = ""
    teachers: tuple[int, int] = (1, 1)


_READ = "formula and reduction from the authors' code, but padding is excluded; see docs/knowledge.md"
_DYNAMICKD_READ = (
    "formula, reduction and defaults from the authors' code; here teachers have no dropout, and no gradient passes "
    "through the weights"
)
_DYNAMICKD: dict[str, Any] = {
    "paper": "Dynamic Knowledge Distillation for Pre-trained Language Models",
    "year": 2021,
    "link": "https://arxiv.org/abs/2109.11295",
}

_PRESETS = (
    Published(
        name="kd",
        called="KD",
        paper="Distilling the Knowledge in a Neural Network",
        year=2015,
        link="https://arxiv.org/abs/1503.02531",
        does="cross-entropy with the labels, KL divergence to the teacher's logits at a temperature",
        cost="one teacher pass a step",
        known="formula certain; alpha 0.5 and tau 4 are usual values, to be tuned",
    ),
    Published(
        name="pkd-skip",
        called="Patient KD, PKD-Skip",
        paper="Patient Knowledge Distillation for BERT Model Compression",
        year=2019,
        link="https://arxiv.org/abs/1908.09355",
        does="KD, and the normalised [CLS] states of evenly spaced layers",
        cost="one teacher pass a step",
        known=_READ,
    ),
    Published(
        name="pkd-last",
        called="Patient KD, PKD-Last",
        paper="Patient Knowledge Distillation for BERT Model Compression",
        year=2019,
        link="https://arxiv.org/abs/1908.09355",
        does="KD, and the normalised [CLS] states of the last layers",
        cost="one teacher pass a step",
        known=_READ,
    ),
    Published(
        name="tinybert",
        called="TinyBERT",
        paper="TinyBERT: Distilling BERT for Natural Language Understanding",
        year=2020,
        link="https://arxiv.org/abs/1909.10351",
        does="embeddings, hidden states and attention maps first, soft cross-entropy of the logits afterwards",
        cost="one teacher pass a step",
        known=_READ,
        unknown="both stages share one learning-rate schedule here; data augmentation and the general stage are left "
        "out",
    ),
    Published(
        name="minilm",
        called="MiniLM",
        paper="MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers",
        year=2020,
        link="https://arxiv.org/abs/2002.10957",
        does="self-attention distributions and value relations of the last layer first, labels afterwards",
        cost="one teacher pass a step in the first half",
        known="formula from a re-implementation, github.com/aitsc/GLMKD (2023); the equal length of both stages is "
        "ours: the paper's first stage is a pre-training",
    ),
    Published(
        name="minilmv2",
        called="MiniLMv2",
        paper="MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers",
        year=2021,
        link="https://arxiv.org/abs/2012.15828",
        does="query, key and value relations of the last layer first, labels afterwards",
        cost="one teacher pass a step in the first half",
        known="formula from a re-implementation, github.com/aitsc/GLMKD (2023); the equal length of both stages is "
        "ours: the paper's first stage is a pre-training",
    ),
    Published(
        name="distilbert",
        called="DistilBERT",
        paper="DistilBERT, a distilled version of BERT",
        year=2019,
        link="https://arxiv.org/abs/1910.01108",
        does="KL divergence of the logits, labels, and cosine loss of the last hidden states",
        cost="one teacher pass a step",
        known="weights from the authors' code; the labels replace the masked words",
    ),
    Published(
        name="rkd",
        called="Relational KD, RKD-DA",
        paper="Relational Knowledge Distillation",
        year=2019,
        link="https://arxiv.org/abs/1904.05068",
        does="distance-wise and angle-wise losses between the examples of a batch",
        cost="one teacher pass a step, and all triples of a batch",
        known="weights from a re-implementation, github.com/zju-SWJ/RLD (2024)",
    ),
    Published(
        name="dynamickd-data",
        called="Dynamic KD, data selection",
        **_DYNAMICKD,
        does="KD on the examples on which the student is most uncertain; labels of all examples",
        cost="a teacher pass over the kept share of each batch",
        known=_DYNAMICKD_READ,
        unknown="the paper counts FLOPs as if the backward pass ran on the kept examples only, but the code runs it on "
        "all examples; ledger.json has both accounts. Scores that need soft labels (kl) are left out",
        teachers=(1, 2),
    ),
    Published(
        name="dynamickd-teacher",
        called="Dynamic KD, teacher adoption",
        **_DYNAMICKD,
        does="KD from two teachers, the small one for uncertain examples and the large one for the others; name the "
        "small one first",
        cost="half a pass of each teacher a step (hard), or a pass of each",
        known=_DYNAMICKD_READ,
        teachers=(2, 2),
    ),
    Published(
        name="dynamickd-objective",
        called="Dynamic KD, objective adjustment",
        **_DYNAMICKD,
        does="hidden states of uncertain examples, logits of the others",
        cost="one teacher pass a step",
        known=f"{_DYNAMICKD_READ}; padding is excluded",
        unknown="beta is tuned for each task: 1 in the code, 4 in its script for RTE; the static control normalises "
        "states over tokens in the code, and over the hidden axis here",
    ),
    Published(
        name="label-revision",
        called="Label Revision and Data Selection",
        paper="Improve Knowledge Distillation via Label Revision and Data Selection",
        year=2024,
        link="https://arxiv.org/abs/2404.03693",
        does="KD from the teacher's probabilities, revised so that the label's class is the largest; optionally only "
        "on the examples that help others",
        cost="one teacher pass a step; with keep below 1, also one over the training data before the first step",
        known="the revision and the role of eta are from the paper; eta 0.8, lambda1 4, lambda2 1, where=wrong and "
        "form=mse are from another team's implementation; form=kd is plain distillation from the revised probabilities",
        unknown="the paper's own values; the estimator, the model, the sign and the ratio of its data selection, for "
        "which the influence through the last layer is a substitute",
        teachers=(1, 8),
    ),
    Published(
        name="swap",
        called="Knowledge Adjustment, Probability Shift",
        paper="Preparing Lessons: Improve Knowledge Distillation with Better Supervision",
        year=2019,
        link="https://arxiv.org/abs/1911.07471",
        does="KD from the teacher's probabilities, with those of the label's and the likeliest class exchanged",
        cost="one teacher pass a step",
        known="the exchange is from two re-implementations, one of them without label loss (alpha=1); alpha and tau "
        "are kd's",
        teachers=(1, 8),
    ),
    Published(
        name="refined-logits",
        called="Refined Logit Distillation, RLD",
        paper="Knowledge Distillation with Refined Logits",
        year=2024,
        link="https://arxiv.org/abs/2408.07703",
        does="labels, the teacher's confidence, and the logits of classes that the teacher ranks below the label's",
        cost="one teacher pass a step",
        known="formula and weights from the authors' code",
        unknown="the formula is complete; the authors' alpha and beta rise over the first 20 of 240 epochs, and are "
        "constant here; with two classes, only the confidence is left",
    ),
    Published(
        name="reffakd",
        called="ReffAKD",
        paper="ReffAKD: Resource-efficient Autoencoder-based Knowledge Distillation",
        year=2023,
        link="https://arxiv.org/abs/2404.09886",
        does="labels, and soft labels from the similarity of classes in an autoencoder; no teacher",
        cost="no teacher pass; fitting the autoencoder takes seconds on one core",
        known="formulas and loss from the authors' code; it has images only, and a similarity temperature of 1, with "
        "which the soft labels are almost uniform",
        unknown="alpha and tau of the published numbers; results on text, which is our extension",
        teachers=(0, 1),
    ),
    Published(
        name="label-smoothing",
        called="Label smoothing",
        paper="Rethinking the Inception Architecture for Computer Vision",
        year=2016,
        link="https://arxiv.org/abs/1512.00567",
        does="labels mixed with the uniform distribution; no teacher",
        cost="no teacher pass",
        known="formula certain, and epsilon 0.1 is the paper's",
        teachers=(0, 1),
    ),
    Published(
        name="kd-average",
        called="Ensemble KD",
        paper="Practical Insights into Knowledge Distillation for Pre-Trained Models",
        year=2024,
        link="https://arxiv.org/abs/2402.14922",
        does="KD from the averaged probabilities of several teachers",
        cost="a pass of each teacher a step",
        known="the formula is ours: plain distillation for the paper's idea of consolidating several models into one",
        unknown="the paper's grid, its best settings for each split, its data sets, models and numbers of clients; "
        "whether it distils from its teachers at once or one after the other",
        teachers=(1, 1000),
    ),
    Published(
        name="data-partitioning",
        called="Data partitioning, KL-Dist + DP",
        paper="Fantastic Gains and Where to Find Them: On the Existence and Prospect of General Knowledge Transfer "
        "between Any Pretrained Model",
        year=2024,
        link="https://arxiv.org/abs/2310.17653",
        does="KL divergence to the teacher on examples where it is better than the initial student, and to the initial "
        "student on the others",
        cost="one pass of the teacher and one of the initial student a step",
        known="the idea is from secondary sources; both comparisons are from memory; tau 1 and no labels are ours",
        unknown="whether arXiv 2402.14922 compares the same partitioning, and its temperatures",
    ),
    Published(
        name="rl-kd",
        called="RL-KD",
        paper="Reinforced Multi-Teacher Selection for Knowledge Distillation",
        year=2021,
        link="https://arxiv.org/abs/2012.06048",
        does="KD from several teachers, drawn for each example by a policy that learns by REINFORCE within the run",
        cost="a pass of every teacher a step",
        known="state, Bernoulli draws and three rewards from descriptions; alpha, tau and the treatment of empty "
        "selections from a re-run, github.com/aitsc/GLMKD (2023), whose mistakes (pi instead of log pi, the last "
        "teacher's loss instead of the student's) are not repeated",
        unknown="the instance embedding is the student's own [CLS] here; the content of an update, the learning rates, "
        "the baseline, and the share of averaging at the start are ours; in one description, the probabilities "
        "themselves are the weights; accuracy is that of training batches here, and that of dev in the paper. In the "
        "re-run, the policy added almost nothing to plain averaging (warmup=1)",
        teachers=(2, MOST),
    ),
    Published(
        name="mtkd-rl",
        called="MTKD-RL",
        paper="Multi-Teacher Knowledge Distillation with Reinforcement Learning for Visual Recognition",
        year=2025,
        link="https://github.com/winycg/MTKD-RL",
        does="logits and features of several teachers, weighted for each example by two rules and a network",
        cost="a pass of every teacher a step",
        known="state, network, rules, reward, update, rates and loss weights from the authors' code, which is for "
        "images; here features are last hidden states, and their vectors are [CLS]. The update is not a policy "
        "gradient",
        unknown="the warm-up is the first of 240 epochs in the code, and a share of the budget here; in the authors' "
        "own table, dynamic=yes is better for two of four students, and worse for the others",
        teachers=(2, MOST),
    ),
    Published(
        name="ksm",
        called="Knowledge Selection",
        paper="Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection",
        year=2022,
        link="https://arxiv.org/abs/2302.00444",
        does="logits, hidden states and their flow (FSP), selected by an actor-critic agent; `ackd train --preset ksm`",
        cost="one teacher pass a step; before that the agent's episodes, each of which is a whole training",
        known="knowledge types, soft and hard actions, state, networks, phases and exploration reward, from "
        "second-hand sources",
        unknown="all hyperparameters and the table of results; the labels always have weight 1 here, but the paper's "
        "agent weights them too; the reward is measured on a part of the training data. --policy random and "
        "random-weights are its controls Random-Hard and Random-Soft",
    ),
)
PUBLISHED: Mapping[str, Published] = {one.name: one for one in _PRESETS}

_COMMANDS = (
    Published(
        name="tune",
        called="Tuned KD",
        paper="Practical Insights into Knowledge Distillation for Pre-Trained Models",
        year=2024,
        link="https://arxiv.org/abs/2402.14922",
        does="KD at the temperature and weight that a grid search finds",
        cost="a training for each pair of the grid",
        known="tuning both by grid search, and the gain relative to the initial student; the default grid is ours",
        unknown="the paper's grid, its best pairs, data sets and models",
        teachers=(1, 1000),
    ),
    Published(
        name="mutual",
        called="Deep Mutual Learning, DML",
        paper="Deep Mutual Learning",
        year=2018,
        link="https://arxiv.org/abs/1706.00384",
        does="students that learn from the labels and from each other's predictions; no teacher",
        cost="for M students, M passes and M (M - 1) further forward passes a step",
        known="formula, order of the steps and reduction from the authors' code; the mean over peers is from the paper",
        unknown="whether transformers should predict for their peers with dropout on",
        teachers=(0, 0),
    ),
    Published(
        name="federate",
        called="FedAvg with a distilled start",
        paper="Practical Insights into Knowledge Distillation for Pre-Trained Models",
        year=2024,
        link="https://arxiv.org/abs/2402.14922",
        does="FedAvg from a plain start, and from a start that is distilled from the clients' own models",
        cost="the clients' trainings in every round; before the rounds, one more training of each client, and one of "
        "the server for the distilled start",
        known="FedAvg is certain (arXiv 1602.05629); the distilled start is plain distillation from all clients",
        unknown="the paper's numbers of clients, rounds and splits, and its settings for the start",
        teachers=(0, 1),
    ),
    Published(
        name="pretrain",
        called="MiniPLM",
        paper="MiniPLM: Knowledge Distillation for Pre-Training Language Models",
        year=2025,
        link="https://arxiv.org/abs/2410.17215",
        does="difference sampling: pre-training on text that a teacher knows better than a small reference model "
        "(`score`, `refine-data`); vanilla KD with --teacher; sequence KD on texts from `generate`",
        cost="one pass of teacher and reference over the corpus, for any number of students",
        known="scores and selection from the authors' code; see docs/systems/miniplm.md",
        teachers=(0, 1),
    ),
)
COMMANDS: Mapping[str, Published] = {one.name: one for one in _COMMANDS}


def presets_of(names: str) -> list[str]:
    """The presets of a name, or of several joined by commas.

    Raises:
        InputError: for a name that is not known, or one that is named twice.
    """
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in PUBLISHED:
            raise unknown("preset", name, PUBLISHED)
        if wanted.count(name) > 1:
            raise InputError(f"the preset {name!r} is named twice: name it once")
    return wanted
