"""The claims of the two papers, and by which rule each is judged. Data; :mod:`mpt.analysis.verdicts` does the judging.

C1 to C9: Diffenderfer & Kailkhura 2021, sections 3.1, 3.2 and appendix E. E1 to E5: Cheng et al., *Efficient MPT*.
"""

from __future__ import annotations

from dataclasses import dataclass

BEATS = (
    "a beats b: every seed of a is above every seed of b, and the means are more than two standard errors apart, that"
    " of a difference of two accuracies on so many test images. a matches b: b does not beat a. The margin of two gaps:"
    " their half spreads over seeds together, or two standard errors of their difference on so many test images, the"
    " larger. C1 to C9 take the runs with layerwise selection and power 1, where there are any."
)


@dataclass(frozen=True)
class Claim:
    """What is claimed, and what a table must show for it."""

    text: str
    rule: str


CLAIMS = {
    "C1": Claim(
        "For each depth there is a range of P where MPT-1/32 matches the dense network, then a drop.",
        "In every network with dense runs and three or more P: some P matches dense, and at the largest P both dense "
        "and the network's own best ticket beat the ticket. Not testable where dense is not above chance.",
    ),
    "C2": Claim(
        "Deeper networks can be pruned further.",
        "Per depth of Conv-N, the largest P (of those that all depths have, three or more) that the network's own "
        "best ticket does not beat: never falls with depth, and is larger in the deepest than in the shallowest. Not "
        "testable where no network drops within the P that were run.",
    ),
    "C3": Claim(
        "The gap between MPT-1/32 and MPT-1/1 hardly changes with depth.",
        "Mean gap over the P that all have, per depth of Conv-N, two depths or more: largest and smallest differ by "
        "no more than 2 points. Not testable where their margin is larger than every gap, or explains what is beyond "
        "2 points.",
    ),
    "C4": Claim(
        "Accuracy grows with depth, then levels off.",
        "Best MPT-1/32 of each depth of Conv-N over the P that all have, three depths or more: the deepest beats the "
        "shallowest, and the last step in depth gains less than the first by more than their margin. Not testable "
        "where the margin is larger than the first step.",
    ),
    "C5": Claim(
        "Conv8 at about 20 % of its weights matches the dense network.",
        "MPT-1/32 in conv8 at P from .75 to .85, of the width nearest to 1: the best of them matches dense, which is "
        "above chance.",
    ),
    "C6": Claim(
        "Width raises every line, and lines of different P approach each other; at large width 90 % pruned costs "
        "little.",
        "Per network and kind of ticket with two or more widths and P: at every P the widest is above the narrowest, "
        "and beats it at one or more; the P lie closer together at the widest than at the narrowest, by more than the "
        "margin; at the widest, P = .9 is within 3 points of the best P or matches it. Not testable without P = .9.",
    ),
    "C7": Claim(
        "The gap between MPT-1/32 and MPT-1/1 shrinks with width.",
        "Mean gap over the P that all have, per network with two or more widths: smaller at the widest than at the "
        "narrowest by more than their margin, in every network. Not testable where the margin is larger than the gap "
        "at the narrowest.",
    ),
    "C8": Claim(
        "biprop beats edge-popup with binary weights at equal size.",
        "MPT-1/32 against edge-popup with a signed constant, same network, width and P: biprop beats it in more than "
        "half of the pairs and is beaten in none.",
    ),
    "C9": Claim(
        "+BN helps, up to 7 points in MPT-1/1.",
        "The same ticket with and without learned batch-norm: +BN beats it in half of the pairs or more and is beaten"
        " in none. The largest gain in MPT-1/1 is said beside it.",
    ),
    "E1": Claim(
        "Power-propagation helps below P = .5 and not above.",
        "The largest power against power 1, same network and P: beats it at half or more of the P below .5, and at "
        "less than half of the P of .5 and above.",
    ),
    "E2": Claim(
        "Power-propagation narrows the range of the scores.",
        "Range of the scores (largest minus smallest, mean over layers) per network and P: every seed at the largest "
        "power below every seed at power 1.",
    ),
    "E3": Claim(
        "Fine-tuning helps a little, the last layer most, and hurts when long.",
        "Fine-tuned tickets, best and last epoch by layers: the best epoch of the last layer beats the ticket before "
        "and is not below that of any other choice; it beats its own last epoch.",
    ),
    "E4": Claim(
        "Thresholding is faster at equal or better accuracy.",
        "Selection by threshold (fixed or calibrated) against exact selection, same network, P and power: fewer "
        "seconds an epoch in every pair, and never beaten in accuracy. Only runs on the same hardware and number of "
        "processes are compared.",
    ),
    "E5": Claim(
        "Kernels that are all zero are more than chance gives.",
        "Fraction of the k x k kernels with nothing kept, against p^(k k) with each layer's own sparsity p: in every "
        "network at every P, all seeds above chance, the mean by more than the seeds' half spread and two standard "
        "errors of that fraction in so many kernels.",
    ),
}
