"""Proves every position of a stream once: in the stream, in the journal, or named by a loss record.

    journal (one commit) -+
    stream, record by record -> Reading -+-> judge -> StreamAudit
    journal (a later commit) ------------+

Memory is bounded by the number of gaps, not by the length of the stream. The journal is looked at first and the
stream is read up to an end that is later: what was accepted in between stands beyond, and the later look
explains it.
"""

from ds_gateway.audit.contents import Comparison, Reading
from ds_gateway.audit.judgement import Finding, StreamAudit, judge, unread
from ds_gateway.audit.reading_back import audit_journal

__all__ = ["Comparison", "Finding", "Reading", "StreamAudit", "audit_journal", "judge", "unread"]
