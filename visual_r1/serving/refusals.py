"""What a client is told where its request is not answered, in the shape of OpenAI's errors.

{"error": {"message": "n is 500; 1 to 128 are answered a request.",
           "type": "invalid_request_error", "param": "n", "code": "invalid_value"}}
"""

from starlette.responses import JSONResponse

from visual_r1.wording import printable

BAD_REQUEST, NO_KEY, WRONG_HOST, NOT_FOUND, NO_METHOD = 400, 401, 403, 404, 405
TOO_LARGE, TOO_MANY, GONE, SERVER_FAILED, UNAVAILABLE = 413, 429, 499, 502, 503


class Refusal(Exception):
    """A request that is not answered: why, as a status and a sentence.

    `param` names the parameter that is at fault, `code` is what programs tell refusals apart by.
    """

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def to_json(self) -> dict[str, object]:
        """As OpenAI's clients read it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == TOO_MANY:
            kind = "rate_limit_error"
        shown = printable(self.message)
        return {"error": {"message": shown, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer that says it."""
        headers = {"Retry-After": "1"} if self.status == TOO_MANY else {}
        if self.status == NO_KEY:
            headers = {"WWW-Authenticate": "Bearer"}
        return JSONResponse(self.to_json(), self.status, headers)


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> Refusal:
    """A refusal of what the client itself has to change."""
    return Refusal(BAD_REQUEST, message, code, param)
