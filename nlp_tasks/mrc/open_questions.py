"""Questions to be asked of a collection: with or without contexts and answers."""

from pathlib import Path

from idbert.errors import DataError
from nlp_tasks.mrc.answers import AnswerSettings
from nlp_tasks.mrc.formats import Question, Questions, read_questions
from nlp_tasks.tables import decoded_text


def read_open_questions(
    source: str | Path,
    settings: AnswerSettings = AnswerSettings(),  # noqa: B008 (frozen)
) -> Questions:
    """Read questions of a file; contexts and answers may be missing.

    A context only serves to tell which paragraph is the right one; it is not read for the answer.

    Args:
        source: a .txt file with a question a line, or whatever `read_questions` reads.
        settings: what is done about wrong questions; a line of a .txt file cannot be wrong.

    Raises:
        DataError: there is no such file, it holds no questions, or cannot be read.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() != ".txt" or not path.is_file():
        return read_questions(path, settings, with_contexts=False)
    lines = [line.strip() for line in decoded_text(path).split("\n")]
    rows = [
        Question(f"line-{number}", line, "") for number, line in enumerate(lines, start=1) if line
    ]
    if not rows:
        raise DataError(f"{path} holds no questions. Write one a line.")
    return Questions(rows, str(path))
