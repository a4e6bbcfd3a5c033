"""Intervals by others' code, for a test: reads cases as JSON, writes what confseq and savvi say.

Of confseq only the modules in Python are used, from its source archive (first argument): its compiled part needs Boost.
"""

import json
import sys

import numpy as np


def main() -> None:
    np.float_ = np.float64  # the name confseq knows, gone since NumPy 2
    sys.path.insert(0, sys.argv[1])
    from confseq.betting import hedged_cs
    from confseq.predmix import predmix_empbern_twosided_cs
    from savvi.multinomial import Multinomial

    cases = json.load(sys.stdin)
    said: dict[str, list[object]] = {"betting": [], "bernstein": [], "shares": []}
    for values in cases["bounded"]:
        for name, sequence in (("betting", hedged_cs), ("bernstein", predmix_empbern_twosided_cs)):
            lower, upper = sequence(np.array(values), alpha=0.05)
            said[name].append([float(lower[-1]), float(upper[-1])])
    for counts, shares, concentration in cases["shares"]:
        model = Multinomial(0.05, np.array(shares), concentration)
        model.update(np.array(counts))
        said["shares"].append(float(np.log(model.odds)))
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
