"""What this service means by DELETE, said to a check that knows one meaning only.

`use_after_free` takes every good answer to DELETE for a deletion. Here 204 is one. 200 and 202 say that
an end is wanted, and the resource stays to be read; then it must read so. The check is made stricter
there, not left out.
"""

from schemathesis.checks import CHECKS
from schemathesis.core.failures import Failure
from schemathesis.specs.openapi.checks import UseAfterFree
from schemathesis.specs.openapi.checks import use_after_free as deleted

# What a resource says once its end was wanted: the field, and what it may not say any more.
OPEN = {
    "desired_state": {"running", "hibernated"},
    "status": {"pending", "in_progress"},
}


def deletion_before(ctx, case):
    """The answer to the DELETE that the check speaks of."""
    for related in ctx.internals.find_related(case_id=case.id):
        if related.operation.method.lower() == "delete":
            answer = ctx.internals.find_response(case_id=related.id)
            if answer is not None and 200 <= answer.status_code < 300:
                yield related, answer


def use_after_free(ctx, response, case):
    try:
        return deleted(ctx, response, case)
    except UseAfterFree:
        answers = [answer for _, answer in deletion_before(ctx, case)]
        if not answers or any(answer.status_code == 204 for answer in answers):
            raise
        if response.status_code == 200 and case.operation.method.lower() == "get":
            said = response.json()
            for field, still in OPEN.items():
                # Lists and what has neither field (a timeline, an explanation) say nothing of the wish.
                if isinstance(said, dict) and "items" not in said and said.get(field) in still:
                    if field == "status" and "desired_state" in said:
                        continue
                    raise Failure(
                        operation=case.operation.label,
                        title="An end that was wanted is not shown",
                        message=f"`{field}` is `{said[field]}` after DELETE",
                    ) from None
        return None


CHECKS.register(use_after_free)
