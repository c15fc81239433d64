"""Reading comprehension: the span of a context that answers a question, or that there is none."""

from nlp_tasks.mrc.answers import Answer, AnswerSettings
from nlp_tasks.mrc.formats import Question, Questions, read_questions
from nlp_tasks.mrc.reader import Reader

__all__ = ["Answer", "AnswerSettings", "Question", "Questions", "Reader", "read_questions"]
