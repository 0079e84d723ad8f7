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


_READ = "formula and reduction from the authors' code; padding is left out, see docs/systems.md"
_DYNAMICKD_READ = (
    "formula, reduction and defaults from the authors' code; teachers without dropout, weights without gradient"
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
        does="KD, and the normalised [CLS] states of every so many layers",
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
        unknown="both stages share one learning-rate schedule here; neither data augmentation nor the general stage",
    ),
    Published(
        name="minilm",
        called="MiniLM",
        paper="MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers",
        year=2020,
        link="https://arxiv.org/abs/2002.10957",
        does="self-attention distributions and value relations of the last layer first, labels afterwards",
        cost="one teacher pass a step in the first half",
        known="formula from a re-implementation, github.com/aitsc/GLMKD (2023); half and half is ours: the paper's "
        "first stage is a pre-training",
    ),
    Published(
        name="minilmv2",
        called="MiniLMv2",
        paper="MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers",
        year=2021,
        link="https://arxiv.org/abs/2012.15828",
        does="query, key and value relations of the last layer first, labels afterwards",
        cost="one teacher pass a step in the first half",
        known="formula from a re-implementation, github.com/aitsc/GLMKD (2023); half and half is ours: the paper's "
        "first stage is a pre-training",
    ),
    Published(
        name="distilbert",
        called="DistilBERT",
        paper="DistilBERT, a distilled version of BERT",
        year=2019,
        link="https://arxiv.org/abs/1910.01108",
        does="KL divergence of the logits, labels, and cosine loss of the last hidden states",
        cost="one teacher pass a step",
        known="weights from the authors' code; labels stand for masked words",
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
        does="KD on the examples of which the student is most uncertain, labels of all",
        cost="a teacher pass over the kept share of each batch",
        known=_DYNAMICKD_READ,
        unknown="the paper counts FLOPs as if the backward pass ran on the kept share alone, and the code runs it on "
        "all; ledger.json has both accounts. Scores that need soft labels (kl) are left out",
        teachers=(1, 2),
    ),
    Published(
        name="dynamickd-teacher",
        called="Dynamic KD, teacher adoption",
        **_DYNAMICKD,
        does="KD from two teachers, the small one for uncertain examples and the large one for the others;"
        " small named first",
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
        known=f"{_DYNAMICKD_READ}; padding is left out",
        unknown="beta is tuned for each task: 1 in the code, 4 in its script for RTE; the static control is normalised "
        "over tokens in the code, and over the hidden axis here",
    ),
    Published(
        name="label-revision",
        called="Label Revision and Data Selection",
        paper="Improve Knowledge Distillation via Label Revision and Data Selection",
        year=2024,
        link="https://arxiv.org/abs/2404.03693",
        does="KD from the teacher's probabilities in which the label's class leads; may distil only the "
        "examples that help others",
        cost="one teacher pass a step; with keep below 1 a teacher pass over the training data before",
        known="revision and eta's role from the paper; eta 0.8, lambda1 4, lambda2 1, revising wrong answers only and "
        "form=mse are another team's reading; form=kd is plain distillation from the revised answers",
        unknown="the paper's own values, and of its data selection the estimator, the model, the sign and the ratio: "
        "influence through the last layer stands in for it",
        teachers=(1, 8),
    ),
    Published(
        name="swap",
        called="Knowledge Adjustment, Probability Shift",
        paper="Preparing Lessons: Improve Knowledge Distillation with Better Supervision",
        year=2019,
        link="https://arxiv.org/abs/1911.07471",
        does="KD from the teacher's probabilities in which the label's class and the likeliest have changed places",
        cost="one teacher pass a step",
        known="the exchange from two re-implementations, of which one has no labels (alpha=1); alpha and tau are kd's",
        teachers=(1, 8),
    ),
    Published(
        name="refined-logits",
        called="Refined Logit Distillation, RLD",
        paper="Knowledge Distillation with Refined Logits",
        year=2024,
        link="https://arxiv.org/abs/2408.07703",
        does="labels, the teacher's confidence, and logits without the classes above the label's",
        cost="one teacher pass a step",
        known="formula and weights from the authors' code",
        unknown="nothing of the formula; the authors' alpha and beta rise over the first 20 of 240 epochs and are "
        "constant here; of two classes nothing but the confidence is left",
    ),
    Published(
        name="reffakd",
        called="ReffAKD",
        paper="ReffAKD: Resource-efficient Autoencoder-based Knowledge Distillation",
        year=2023,
        link="https://arxiv.org/abs/2404.09886",
        does="labels, and soft labels from how alike an autoencoder finds the classes; no teacher",
        cost="no teacher pass; fitting the autoencoder, seconds on one core",
        known="formulas and loss from the authors' code; they have images alone, and a similarity temperature of 1, "
        "which leaves the soft labels almost uniform",
        unknown="alpha and tau behind the published numbers; how it does on text, which is ours",
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
        known="formula ours: the paper's idea of consolidating models into one, by plain distillation",
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
        does="KL divergence to the teacher where it is better than the initial student, and to that elsewhere",
        cost="one pass a step of the teacher and of a second student",
        known="the idea from secondary sources; both masks from memory; tau 1 and no labels are ours",
        unknown="that this is the partitioning which arXiv 2402.14922 compares, and its temperatures",
    ),
    Published(
        name="rl-kd",
        called="RL-KD",
        paper="Reinforced Multi-Teacher Selection for Knowledge Distillation",
        year=2021,
        link="https://arxiv.org/abs/2012.06048",
        does="KD from several teachers, drawn for each example by a policy that REINFORCE trains in the run",
        cost="a pass of every teacher a step",
        known="state, Bernoulli draws and three rewards from descriptions; alpha, tau and empty selections from a "
        "re-run, github.com/aitsc/GLMKD (2023), whose slips (pi for log pi, the last teacher's loss for the student's) "
        "are not repeated",
        unknown="the instance embedding is the student's own [CLS] here; what an update is made of, the rates, the "
        "baseline, and the share of averaging before are ours; one description lets the chances themselves be the "
        "weights; accuracy is of training batches, where the paper takes dev. In the re-run the policy added almost "
        "nothing to plain averaging (warmup=1)",
        teachers=(2, MOST),
    ),
    Published(
        name="mtkd-rl",
        called="MTKD-RL",
        paper="Multi-Teacher Knowledge Distillation with Reinforcement Learning for Visual Recognition",
        year=2025,
        link="https://github.com/winycg/MTKD-RL",
        does="logits and features of several teachers, weighed for each example by two rules and a network",
        cost="a pass of every teacher a step",
        known="state, network, rules, reward, update, rates and loss weights from the authors' code, which is for "
        "images: features are last hidden states here, and their vectors [CLS]. The update is no policy gradient",
        unknown="warm-up is the first of 240 epochs in the code, and a share of the budget here; the code's own table "
        "has dynamic=yes better for two of four students, and worse for the others",
        teachers=(2, MOST),
    ),
    Published(
        name="ksm",
        called="Knowledge Selection",
        paper="Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection",
        year=2022,
        link="https://arxiv.org/abs/2302.00444",
        does="logits, hidden states and their flow (FSP), as an actor-critic agent selects them; `ackd "
        "train --preset ksm`",
        cost="one teacher pass a step, after the agent's episodes, each a training of its own",
        known="knowledge types, soft and hard actions, state, networks, phases and exploration reward, second-hand",
        unknown="every hyperparameter and the table of results; the labels always count 1 here, where the paper's "
        "agent weighs them too; the reward is of a part of the training data. --policy random and random-weights are "
        "its controls Random-Hard and Random-Soft",
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
        known="tuning both by grid search, and the gain counted against the initial student; the default grid is ours",
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
        cost="of M students M passes and M (M - 1) further forward passes a step",
        known="formula, order of the steps and reduction from the authors' code; the mean over peers is the paper's",
        unknown="whether peers should answer with their dropout on, where the models are transformers",
        teachers=(0, 0),
    ),
    Published(
        name="federate",
        called="FedAvg with a distilled start",
        paper="Practical Insights into Knowledge Distillation for Pre-Trained Models",
        year=2024,
        link="https://arxiv.org/abs/2402.14922",
        does="FedAvg from a plain start and from one that is distilled from the clients' own models",
        cost="the clients' trainings in every round, and for the distilled start one more of each and of the server",
        known="FedAvg certain (arXiv 1602.05629); the distilled start is plain distillation from all clients",
        unknown="the paper's numbers of clients, rounds and splits, and its settings of the start",
        teachers=(0, 1),
    ),
    Published(
        name="pretrain",
        called="MiniPLM",
        paper="MiniPLM: Knowledge Distillation for Pre-Training Language Models",
        year=2025,
        link="https://arxiv.org/abs/2410.17215",
        does="Difference Sampling: pre-training on the text that a teacher knows better than a small "
        "reference, which `score` and `refine-data` choose; vanilla KD with --teacher, SeqKD on what "
        "`generate` writes",
        cost="one pass of teacher and reference over the corpus, whatever number of students follow",
        known="scores and selection; see docs/systems/miniplm.md",
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
