"""<output>/<stage>/run.json: which MLflow run a stage logs to, and which caches it reads, from before they are made."""

from pathlib import Path

from pydantic import Field, ValidationError

from skyreels.config import Config, ConfigError

RUN_FILE = "run.json"


class RunRecord(Config):
    """Of a stage that was begun."""

    mlflow_run: str = ""
    caches: dict[str, str] | None = Field(None, description="names below latents/, by dataset; null: not known")


def read_run(folder: Path) -> RunRecord:
    """Of a stage's folder; an empty one where it was not begun. Raises ConfigError for a damaged file."""
    file = folder / RUN_FILE
    if not file.is_file():
        return RunRecord()
    try:
        return RunRecord.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ConfigError(
            f"{file} is no record of a run ({error.error_count()} problems): delete it, and the stage goes on from its "
            "last checkpoint under a new MLflow run"
        ) from error


def note_run(folder: Path, **changes: object) -> None:
    """Lay changes over the record, in one step."""
    record = read_run(folder).model_copy(update=changes)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{RUN_FILE}"
    partial.write_text(record.model_dump_json() + "\n")
    partial.replace(folder / RUN_FILE)
