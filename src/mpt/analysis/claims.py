"""The claims of two papers and one of ours, each with the rule that judges it. :mod:`mpt.analysis.verdicts` applies it.

C1 to C9: Diffenderfer & Kailkhura 2021, sections 3.1, 3.2 and appendix E. E1 to E5: Cheng et al., *Efficient MPT*. M1
is ours: it asks what came after biprop.
"""

from __future__ import annotations

from dataclasses import dataclass

BEATS = (
    "a beats b: every seed of a is above every seed of b, and the means are more than two standard errors apart. The"
    " standard error is that of a difference of two accuracies on so many test images. a matches b: b does not beat a."
    " The margin of two gaps is the larger of two numbers: the sum of their half spreads over seeds, and two standard"
    " errors of their difference. C1 to C9 use the runs with layerwise selection and power 1, if there are any."
)


@dataclass(frozen=True)
class Claim:
    """The text of a claim, and the rule that a table must meet."""

    text: str
    rule: str


CLAIMS = {
    "C1": Claim(
        "For each depth there is a range of P where MPT-1/32 matches the dense network, then a drop.",
        "In every network with dense runs and three or more P, the ticket at some P matches dense. At the largest P, "
        "both dense and the network's own best ticket beat the ticket. Not testable if dense is not above chance.",
    ),
    "C2": Claim(
        "Deeper networks can be pruned further.",
        "For each depth of Conv-N, take the largest P at which the network's own best ticket does not beat the ticket; "
        "all depths must share three or more P. This P never falls with depth, and is larger in the deepest network "
        "than in the shallowest. Not testable if no network drops within the P that were run.",
    ),
    "C3": Claim(
        "The gap between MPT-1/32 and MPT-1/1 hardly changes with depth.",
        "Take the mean gap over shared P for each depth of Conv-N, two depths or more. The largest and the smallest "
        "differ by at most 2 points. Not testable if their margin is larger than every gap, or explains the excess "
        "over 2 points.",
    ),
    "C4": Claim(
        "Accuracy grows with depth, then levels off.",
        "Take the best MPT-1/32 over shared P for each depth of Conv-N, three depths or more. The deepest beats the "
        "shallowest, and the last step in depth gains less than the first by more than their margin. Not testable "
        "if the margin is larger than the first step.",
    ),
    "C5": Claim(
        "Conv8 at about 20 % of its weights matches the dense network.",
        "Of MPT-1/32 in conv8 at P from .75 to .85, at the width nearest to 1, the best matches dense, which is above "
        "chance.",
    ),
    "C6": Claim(
        "Width raises every line, and lines of different P approach each other; at large width 90 % pruned costs "
        "little.",
        "For each network and kind of ticket with two or more widths and P: at every P the widest is above the "
        "narrowest, and at one or more P beats it. The lines of different P lie closer together at the widest than at "
        "the narrowest, by more than the margin. At the widest, P = .9 is within 3 points of the best P or matches it. "
        "Not testable without P = .9.",
    ),
    "C7": Claim(
        "The gap between MPT-1/32 and MPT-1/1 shrinks with width.",
        "In every network with two or more widths, the mean gap over shared P is smaller at the widest than at the "
        "narrowest, by more than their margin. Not testable if the margin is larger than the gap at the narrowest.",
    ),
    "C8": Claim(
        "biprop beats edge-popup with binary weights at equal size.",
        "Pair MPT-1/32 with edge-popup (signed constant) at the same network, width and P. biprop wins more than half "
        "of the pairs and loses none.",
    ),
    "C9": Claim(
        "+BN helps, up to 7 points in MPT-1/1.",
        "Pair tickets with and without learned batch-norm, otherwise equal. +BN wins half of the pairs or more and"
        " loses none. The verdict also states the largest gain in MPT-1/1.",
    ),
    "E1": Claim(
        "Power-propagation helps below P = .5 and not above.",
        "Pair the largest power with power 1 at the same network and P. It wins half or more of the pairs at P below "
        ".5, and less than half of the pairs at P of .5 and above.",
    ),
    "E2": Claim(
        "Power-propagation narrows the range of the scores.",
        "For each network and P, compare the range of the scores (largest minus smallest, mean over layers). Every "
        "seed at the largest power is below every seed at power 1.",
    ),
    "E3": Claim(
        "Fine-tuning helps a little, the last layer most, and hurts when long.",
        "Compare the best epochs of fine-tuning by choice of layers. The best epoch of the last layer beats the ticket "
        "before fine-tuning and its own last epoch, and is not below the best epoch of any other choice.",
    ),
    "E4": Claim(
        "Thresholding is faster at equal or better accuracy.",
        "Pair selection by threshold (fixed or calibrated) with exact selection at the same network, P and power. It "
        "takes fewer seconds per epoch in every pair, and never loses in accuracy. Pairs share hardware and number of "
        "processes.",
    ),
    "E5": Claim(
        "More kernels are all zero than chance gives.",
        "Compare the fraction of k x k kernels without a kept weight with chance, p^(k k) at each layer's sparsity p. "
        "In every network and at every P, all seeds are above chance. The mean is above it by more than the half "
        "spread over seeds, and by more than two standard errors of that fraction in so many kernels.",
    ),
    "M1": Claim(
        "A search that came after biprop beats it at equal bits.",
        "For each other method, or kind of gains, in a network with biprop at two or more P: compare it at each P with "
        "biprop at the same bits a weight, on the straight lines between biprop's points (mean, lowest and highest). "
        "Points beyond biprop's bits do not count. It beats biprop if it wins more than half of the points and loses "
        "none. Shown if some method does; the numbers say which.",
    ),
}
