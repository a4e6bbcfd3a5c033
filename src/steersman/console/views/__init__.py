"""What a page shows, read in one transaction and held as plain data: no page asks the database, no view writes HTML."""

from steersman.console.views.entries import EntryView, LedgerPage, ledger_page
from steersman.console.views.fleet import EnvironmentView, Fleet, Measure, ModelCard, fleet
from steersman.console.views.incident import IncidentPage, incident_page
from steersman.console.views.release import ReleasePage, StepView, release_page
from steersman.console.views.report import ReplayReport, replay_report
from steersman.console.views.timeline import ModelTimeline, Point, model_timeline
from steersman.console.views.verdicts import Evidence, Look, SliceView, VerdictView

__all__ = [
    "EntryView",
    "EnvironmentView",
    "Evidence",
    "Fleet",
    "IncidentPage",
    "LedgerPage",
    "Look",
    "Measure",
    "ModelCard",
    "ModelTimeline",
    "Point",
    "ReleasePage",
    "ReplayReport",
    "SliceView",
    "StepView",
    "VerdictView",
    "fleet",
    "incident_page",
    "ledger_page",
    "model_timeline",
    "release_page",
    "replay_report",
]
