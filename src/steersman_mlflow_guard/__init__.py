"""What runs inside MLflow's own process, so that no request changes production without a release.

MLflow has no place to say "may set aliases, but not `champion`". Matching paths in front of it does not hold (its
router forgives what a matcher does not), so the decision is made inside, on the route MLflow itself matched, through
its documented `mlflow.app` plug-in. This package is small and knows nothing of the rest of Steersman: the control
server tells it by one file what is released (`protection`), and signs who is calling (`identity`).

- `identity`: the signed header that our proxy puts on every request; whatever lacks it is refused.
- `paths`: which request paths are canonical; the rest never reach a router.
- `routes`: the committed inventory of MLflow's routes with a decision for each.
- `protection`: what is protected, as a file.
- `artifacts`: which stored files belong to a registered version.
- `judging`: one function a decision.
- `app`: `create_app`, which puts it together.
"""
