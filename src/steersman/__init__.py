"""Steersman keeps AI models in production on course.

A team declares how a model is to live; Steersman carries it out (gates, approvals, paired shadow, canary, promotion,
monitoring, incident, rollback, retraining) and can prove afterwards what was live at any moment, why, and who decided.
The layers, from nouns to processes, are described in ``docs/life-of-a-model-version.md``.
"""

__version__ = "0.1.0"
