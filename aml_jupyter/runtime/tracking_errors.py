"""What MLflow clients are told when a call is refused."""


class Refused(Exception):
    """A call that is not carried out: HTTP status, MLflow's error code, and a sentence.

    Clients try for minutes to get past 429 and most of 500: the user's program would stand still meanwhile.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def invalid(message: str) -> Refused:
    """The call is wrong in itself."""
    return Refused(400, "INVALID_PARAMETER_VALUE", message)


def missing(message: str) -> Refused:
    """What the call is about does not exist."""
    return Refused(404, "RESOURCE_DOES_NOT_EXIST", message)
