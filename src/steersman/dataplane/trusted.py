"""Types a skops file may hold beyond those skops itself trusts.

skops refuses every type it does not know to be harmless to construct. Its own list covers scikit-learn's public estimators
and NumPy; what is missing are a few private classes that common estimators contain. Each line is a type whose construction
and state-setting was read and runs no code from the file. A model with another type is refused by name.
"""

from __future__ import annotations

TRUSTED_TYPES: frozenset[str] = frozenset(
    {
        # gradient boosting: losses, links, trees and bin mappers
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.IdentityLink",
        "sklearn._loss.link.LogLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.link.HalfLogitLink",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfSquaredError",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn._loss.loss.HalfPoissonLoss",
        "sklearn._loss.loss.AbsoluteError",
        "sklearn._loss._loss.CyHalfBinomialLoss",
        "sklearn._loss._loss.CyHalfSquaredError",
        "sklearn._loss._loss.CyHalfMultinomialLoss",
        "sklearn._loss._loss.CyHalfPoissonLoss",
        "sklearn._loss._loss.CyAbsoluteError",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.ensemble._gb_losses.BinomialDeviance",
        "sklearn.ensemble._gb_losses.LeastSquaresError",
        "sklearn.tree._tree.Tree",
        # preprocessing and composition
        "sklearn.compose._column_transformer._RemainderColsList",
        "sklearn.utils._bunch.Bunch",
        "sklearn.preprocessing._function_transformer._identity",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        # metrics' fast paths held by neighbours and scorers
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "numpy.dtype",
        # LightGBM's scikit-learn classes, as MLflow logs them: a booster's state is its text format, read by the C library
        "lightgbm.basic.Booster",
        "lightgbm.sklearn.LGBMClassifier",
        "lightgbm.sklearn.LGBMRegressor",
        "collections.OrderedDict",
    }
)
