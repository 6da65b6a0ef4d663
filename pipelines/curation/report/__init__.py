"""`report.html`: what a curation run came to, as one page that needs nothing else."""

from pipelines.curation.report.data import ReportData, Throughput
from pipelines.curation.report.page import render_report
from pipelines.curation.report.previews import Preview, choose_previews, make_preview

__all__ = ["Preview", "ReportData", "Throughput", "choose_previews", "make_preview", "render_report"]
