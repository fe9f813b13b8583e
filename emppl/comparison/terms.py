"""Terms that a reader of a report may not know: key -> (what a reader meets in the text, one line of explanation)."""

from emppl.comparison.table import INTERVAL

TERMS = {
    "em": ("EM", "expectation–maximisation: climbs to the parameters under which the data are most probable, "
           "averaging over the hidden variables at every step"),
    "nuts": ("NUTS", "a sampler that draws parameters in proportion to how probable they are given the data"),
    "posterior": ("posterior", "how probable each value of the parameters is, given the data and the priors"),
    "log-posterior": ("log posterior", "log-likelihood plus log prior; EM's estimate is where it is highest (on the "
                      "parameters' own scale, no Jacobian added)"),
    "se": ("standard error", "how far the estimate would move with other data of the same kind, judged from how "
           "sharply the objective bends at its top; written se"),
    "hdi": ("HDI", f"highest-density interval: the shortest interval that holds {INTERVAL:.0%} of the posterior"),
    "interval": ("EM's interval", f"holds the parameter with {INTERVAL:.0%} confidence: the estimate and its standard "
                 "error on the scale that NUTS works on, a log or logit where the parameter has bounds, carried back"),
    "sd": ("sd", "standard deviation: the usual distance from the mean"),
    "laplace": ("Laplace", "the normal distribution that touches the posterior at its top, on a scale without borders: "
                "what the posterior would be if its shape near the top were its shape everywhere"),
    "quantile": ("quantile", "the share of the posterior that lies below a value: 0.5 is its middle"),
    "mcse": ("Monte Carlo error", "how far the mean of the draws may be from the posterior's own mean, the number of "
             "draws being finite"),
    "r-hat": ("R-hat", "compares chains with each other: 1 when they agree; above 1.01 they do not yet"),
    "ess": ("effective draws", "how many independent draws the correlated ones are worth (ESS)"),
    "alignment": ("alignment", "giving every draw the component names of the EM fit, since a mixture does not care "
                  "which component is called which"),
    "responsibilities": ("responsibilities", "the probabilities that a member belongs to each of the components"),
    "mode": ("mode", "a top of the posterior; several tops that differ only in names count as one"),
    "nats": ("nats", "the unit of natural logarithms: one nat higher is 2.7 times as probable"),
    "skewed": ("skewed", "leaning to one side, so that an interval of equal arms misses on the other"),
    "divergences": ("divergences", "places where NUTS's steps went astray: the region there may be under-sampled"),
    "certificate": ("certificate", "checks that every fit carries: that the derived formulas are the model's, and "
                    "that the point found is a top"),
}  # fmt: skip
