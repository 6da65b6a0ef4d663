"""What can be wrong with a request to the service, as its caller is told."""

from typing import Any


class ServingError(Exception):
    """An answer that is an error: HTTP `status`, a stable `code`, what is wrong and what to do, and which field."""

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """In the form that OpenAI's clients show."""
        return error_body(self.status, self.code, str(self), self.field)


def error_body(status: int, code: str, message: str, field: str | None = None) -> dict[str, Any]:
    """An error object in OpenAI's form."""
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}


def invalid(field: str | None, message: str, code: str = "invalid_value") -> ServingError:
    """A request that cannot be carried out as it is."""
    return ServingError(400, code, message, field)


def not_found(what: str) -> ServingError:
    """What does not exist, or is somebody else's: the two cannot be told apart."""
    return ServingError(404, "not_found", f"there is no {what}: list what there is, or check the id")
