"""Cases of `llma admin` and `llma auth api-keys`: command line, expected request, response, and words of the output.

Rows are the fields of `test_commands.Case`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ROWS"]

ORGANIZATION = {"id": "org_1", "title": "Acme", "is_default": True, "created_at": 1_760_000_000}
ORGANIZATION |= {"summary": {"project_count": 3, "user_count": 17}}
ORGANIZATIONS = {
    "organizations": [ORGANIZATION, {**ORGANIZATION, "id": "org_2", "title": "Two Words", "is_default": False}]
}
VISION = {
    "id": "proj_1",
    "title": "Vision",
    "organization_id": "org_1",
    "created_at": 1_760_000_000,
    "kubernetes_namespace": "team-a",
    "assignments": [],
    "summary": {"user_count": 5},
}
PROJECTS = {"projects": [VISION]}
ASSIGNMENT = {"namespace": "team-b", "node_selector": [{"key": "pool", "value": "gpu"}]}
ADA = {"user_id": "ada@x.org", "internal_user_id": "user_1", "role": "ORGANIZATION_ROLE_TENANT_SYSTEM", "name": "Ada"}
ORGANIZATION_BINDING = {"organization_id": "org_1", "role": "ORGANIZATION_ROLE_READER"}
PROJECT_BINDING = {"project_id": "proj_1", "title": "Vision", "role": "PROJECT_ROLE_MEMBER"}
USER = {"id": "ada@x.org", "internal_id": "user_1", "is_service_account": False}
USER |= {
    "organization_role_bindings": [{**ORGANIZATION_BINDING, "title": "Acme"}],
    "project_role_bindings": [PROJECT_BINDING],
}
USERS = {"users": [USER]}
ROLE = {"id": "role_1", "name": "auditor", "permissions": ["api.audit.read"], "predefined_role": False}
ROLES = {"data": [{"id": "owner", "name": "owner", "permissions": ["a", "b", "c", "d"], "predefined_role": True}, ROLE]}
GROUP_ROLE = {"id": "group_role_1", "group": "staff", "role": "member", "project_id": "proj_1"}
GROUP_ROLES = {"data": [{**GROUP_ROLE, "issuer": "https://issuer.example"}]}
ADMIN_KEY = {"id": "key_9", "name": "ops", "redacted_value": "sk-admin-abcd…yz", "owner": {"name": "Ada"}}
INVITE = {"id": "invite_1", "email": "bob@x.org", "role": "reader", "status": "pending", "projects": [{"id": "proj_1"}]}
KEY = {"id": "key_1", "name": "ci", "prefix": "sk-abcd…yz", "user": {"id": "ada@x.org"}, "project": {"title": "Vision"}}
LIMIT = {"id": "limit_1", "subject": "project", "subject_id": "proj_1", "model": "*", "requests_per_minute": 60}
LIMIT |= {"tokens_per_day": 1000, "used": {"requests_per_minute": 7}}
BUDGET = {"id": "budget_1", "subject": "user", "subject_id": "user_1", "period": "month", "amount": 25.5, "spent": 1e-6}
BUDGET |= {"alert_ratio": 0.8, "hard": True}
HELD = {"used": 0, "borrowed": 0, "waiting": 0}
GPUS = {"nominal": 4, "borrowing_limit": 2, "used": 5, "borrowed": 1, "waiting": 2}
MEMORY = {"nominal": 8 * 2**30, "borrowing_limit": None, "used": 16 * 2**30, "borrowed": 8 * 2**30, "waiting": 0}
KINDS = {"gpu": {"used": 4}, "cpu": {"used": 0.5}, "memory": {"used": 0}}
QUOTA: dict[str, Any] = {"id": "proj_1", "subject": "project", "name": "Vision", "gpu": GPUS, "memory": MEMORY}
QUOTA |= {
    "cpu": {"nominal": None, "borrowing_limit": None, **HELD, "used": 0.5},
    "kinds": {"models": KINDS, "reviews": KINDS},
}
QUOTA |= {"set_by": "operator", "created_at": 1}
POOL: dict[str, Any] = {"gpu": {"total": 8, **HELD}, "cpu": {"total": 64, **HELD}, "memory": {"total": 0, **HELD}}
POOL |= {"kinds": {"models": KINDS}}

ORGANIZATION_LOOKUP: dict[str, Any] = {"GET /organizations": ORGANIZATIONS}
PROJECT_LOOKUP: dict[str, Any] = {**ORGANIZATION_LOOKUP, "GET /organizations/org_1/projects": PROJECTS}
ROLE_LOOKUP: dict[str, Any] = {"GET /organization/roles": ROLES}
KEY_LOOKUP: dict[str, Any] = {**PROJECT_LOOKUP, "GET /organizations/org_1/projects/proj_1/api_keys": {"data": [KEY]}}
ORGANIZATION_PATH, PROJECT_PATH = "/organizations/org_1", "/organizations/org_1/projects/proj_1"


def row(
    line: str,
    route: str,
    answer: dict[str, Any],
    shows: tuple[str, ...],
    body: Any = None,
    *,
    before: dict[str, Any] | None = None,
    query: dict[str, str] | None = None,
) -> dict[str, Any]:
    """One row."""
    fields = {"line": line, "route": route, "answer": answer, "shows": shows, "body": body}
    return {**fields, "before": before or {}, "query": query or {}}


ROWS = [
    row(
        "admin organizations create Acme",
        "POST /organizations",
        ORGANIZATION,
        ("Made organization Acme (org_1).",),
        {"title": "Acme"},
    ),
    row(
        "admin organizations list",
        "GET /organizations",
        ORGANIZATIONS,
        ("org_1", "Acme", "yes", "17", "2025-10-09", "Two Words"),
        query={"include_summary": "true"},
    ),
    row(
        "admin organizations delete org_2",
        "DELETE /organizations/org_2",
        {"deleted": True, "removed": {"users": ["a", "b"], "api_keys": ["key_1"], "roles": []}},
        ("Deleted organization Two Words (org_2), and with it 2 users, 1 api key.",),
        before=ORGANIZATION_LOOKUP,
    ),
    row(
        "admin organizations add-member Acme --email Ada@x.org --role reader",
        f"POST {ORGANIZATION_PATH}/users",
        {**ADA, "role": "ORGANIZATION_ROLE_READER"},
        ("Added ada@x.org to Acme as reader.",),
        {"user_id": "Ada@x.org", "role": "reader"},
        before=ORGANIZATION_LOOKUP,
    ),
    row(
        "admin organizations list-members org_1",
        f"GET {ORGANIZATION_PATH}/users",
        {"users": [ADA]},
        ("ada@x.org", "tenant-system", "Ada", "user_1"),
        before=ORGANIZATION_LOOKUP,
    ),
    row(
        "admin organizations remove-member Acme --email ada@x.org",
        f"DELETE {ORGANIZATION_PATH}/users/ada%40x.org",
        {"removed": {"projects": [], "api_keys": []}},
        ("Removed ada@x.org from Acme.",),
        before=ORGANIZATION_LOOKUP,
    ),
    row(
        "admin projects create Vision -o Acme -n team-a",
        f"POST {ORGANIZATION_PATH}/projects",
        VISION,
        ("Made project Vision (proj_1) in Acme.",),
        {"title": "Vision", "kubernetes_namespace": "team-a"},
        before=ORGANIZATION_LOOKUP,
    ),
    row(
        "admin projects list -o org_1",
        f"GET {ORGANIZATION_PATH}/projects",
        PROJECTS,
        ("proj_1", "Vision", "team-a", "5"),
        before=ORGANIZATION_LOOKUP,
        query={"include_summary": "true"},
    ),
    row(
        "admin projects delete proj_1 -o Acme",
        f"DELETE {PROJECT_PATH}",
        {"deleted": True, "removed": {"service_accounts": ["ci"]}},
        ("Deleted project Vision (proj_1), and with it 1 service account.",),
        before=PROJECT_LOOKUP,
    ),
    row(
        "admin projects update Vision --new-title Sight -n team-b --node-selector pool=gpu",
        f"PATCH {PROJECT_PATH}",
        {**VISION, "title": "Sight"},
        ("Updated project Sight (proj_1).",),
        {"title": "Sight", "assignments": [ASSIGNMENT], "update_mask": "title,assignments"},
        before=PROJECT_LOOKUP,
    ),
    row(
        "admin projects add-member Vision --email ada@x.org --role auditor",
        f"POST {PROJECT_PATH}/users",
        {**ADA, "role": "role_1"},
        ("Added ada@x.org to Vision as role_1.",),
        {"user_id": "ada@x.org", "role": "role_1"},
        before={**PROJECT_LOOKUP, **ROLE_LOOKUP},
    ),
    row(
        "admin projects list-members Vision",
        f"GET {PROJECT_PATH}/users",
        {"users": [{**ADA, "role": "PROJECT_ROLE_MEMBER", "role_id": "viewer"}]},
        ("ada@x.org", "viewer"),
        before=PROJECT_LOOKUP,
    ),
    row(
        "admin projects remove-member Vision --email ada@x.org",
        f"DELETE {PROJECT_PATH}/users/ada%40x.org",
        {"removed": {"api_keys": ["key_1", "key_2"]}},
        ("Removed ada@x.org from Vision, and with it 2 api keys.",),
        before=PROJECT_LOOKUP,
    ),
    row("admin users list", "GET /users", USERS, ("ada@x.org", "person", "reader", "Vision: member", "user_1")),
    row(
        "admin users unlink ada@x.org",
        "DELETE /organization/sign_in/users/user_1",
        {"id": "user_1", "deleted": True},
        ("ada@x.org is linked again",),
        before={"GET /users": USERS},
    ),
    row(
        "admin groups create staff --role auditor --project Vision",
        "POST /organization/sign_in/group_roles",
        {"id": "group_role_1", "group": "staff", "role": "role_1", "project_id": "proj_1"},
        ("Members of staff are role_1 in project Vision.",),
        {"group": "staff", "role": "role_1", "project_id": "proj_1"},
        before={**PROJECT_LOOKUP, **ROLE_LOOKUP},
    ),
    row(
        "admin groups list",
        "GET /organization/sign_in/group_roles",
        GROUP_ROLES,
        ("group_role_1", "staff", "member", "proj_1", "https://issuer.example"),
    ),
    row(
        "admin groups delete staff",
        "DELETE /organization/sign_in/group_roles/group_role_1",
        {"id": "group_role_1", "deleted": True},
        ("Members of staff are no longer member by it.",),
        before={"GET /organization/sign_in/group_roles": GROUP_ROLES},
    ),
    row(
        "admin users set-role ada@x.org --role Tenant-System",
        "POST /organization/users/user_1",
        {"id": "user_1", "role": "tenant_system"},
        ("ada@x.org is tenant_system in the organization from now on.",),
        {"role": "tenant_system"},
        before={"GET /users": USERS},
    ),
    row(
        "admin users set-role user_1 --role auditor --project Vision",
        "POST /organization/projects/proj_1/users/user_1",
        {"id": "user_1", "role": "role_1"},
        ("ada@x.org is role_1 in Vision from now on.",),
        {"role": "role_1"},
        before={**PROJECT_LOOKUP, **ROLE_LOOKUP, "GET /users": USERS},
    ),
    row("admin roles list", "GET /organization/roles", ROLES, ("role_1", "auditor", "api.audit.read", "4 scopes")),
    row(
        "admin roles create auditor --scope api.audit.read --description Reads.",
        "POST /organization/roles",
        ROLE,
        ("Made role auditor (role_1).",),
        {"role_name": "auditor", "permissions": ["api.audit.read"], "description": "Reads."},
    ),
    row(
        "admin roles update auditor --new-name books --scope api.prices.read",
        "POST /organization/roles/role_1",
        {**ROLE, "name": "books"},
        ("Updated role books (role_1).",),
        {"role_name": "books", "permissions": ["api.prices.read"]},
        before=ROLE_LOOKUP,
    ),
    row(
        "admin roles delete auditor",
        "DELETE /organization/roles/role_1",
        {"id": "role_1", "deleted": True},
        ("Deleted role auditor (role_1).",),
        before=ROLE_LOOKUP,
    ),
    row(
        "admin keys create ops --expires-in 30",
        "POST /organization/admin_api_keys",
        {**ADMIN_KEY, "value": "sk-admin-secret"},
        ("sk-admin-secret", "not shown again"),
        {"name": "ops", "expires_in_seconds": 2_592_000},
    ),
    row(
        "admin keys list",
        "GET /organization/admin_api_keys",
        {"data": [ADMIN_KEY]},
        ("key_9", "ops", "sk-admin-abcd", "Ada", "never"),
    ),
    row(
        "admin keys delete ops",
        "DELETE /organization/admin_api_keys/key_9",
        {"id": "key_9", "deleted": True},
        ("Deleted admin key ops (key_9).",),
        before={"GET /organization/admin_api_keys": {"data": [ADMIN_KEY]}},
    ),
    row(
        "admin invites create bob@x.org --project Vision --project Vision:viewer --expires-in 1",
        "POST /organization/invites",
        {**INVITE, "token": "inv-secret"},
        ("inv-secret", "not shown again"),
        {
            "email": "bob@x.org",
            "projects": [{"id": "proj_1"}, {"id": "proj_1", "role": "viewer"}],
            "expires_in_seconds": 86400,
        },
        before=PROJECT_LOOKUP,
    ),
    row("admin invites list", "GET /organization/invites", {"data": [INVITE]}, ("bob@x.org", "reader", "pending", "1")),
    row(
        "admin invites delete bob@x.org",
        "DELETE /organization/invites/invite_1",
        {"id": "invite_1", "deleted": True},
        ("Took back the invitation of bob@x.org (invite_1).",),
        before={"GET /organization/invites": {"data": [{**INVITE, "id": "old", "status": "accepted"}, INVITE]}},
    ),
    row(
        "auth accept-invite inv-secret",
        "POST /invitations:accept",
        {"id": "invite_1", "user": USER, "api_key": {**KEY, "secret": "sk-first-secret"}},
        ("sk-first-secret", "ada@x.org is in Acme, Vision."),
        {"token": "inv-secret"},
    ),
    row(
        "auth api-keys create ci -o Acme -p Vision --service-account --role tenant-system --model a/b --source 10.0.0.0/8",
        "POST /api_keys",
        {**KEY, "secret": "sk-new-secret"},
        ("sk-new-secret",),
        {
            "name": "ci",
            "allowed_models": ["a/b"],
            "allowed_sources": ["10.0.0.0/8"],
            "is_service_account": True,
            "role": "tenant-system",
            "organization_id": "org_1",
            "project_id": "proj_1",
        },
        before=PROJECT_LOOKUP,
    ),
    row(
        "auth api-keys list -p Vision",
        f"GET {PROJECT_PATH}/api_keys",
        {"data": [KEY]},
        ("key_1", "ci", "ada@x.org", "Vision"),
        before=PROJECT_LOOKUP,
    ),
    row(
        "auth api-keys delete ci -o org_1 -p proj_1",
        f"DELETE {PROJECT_PATH}/api_keys/key_1",
        {"id": "key_1", "deleted": True},
        ("Deleted API key ci (key_1).",),
        before=KEY_LOOKUP,
    ),
    row(
        "auth api-keys update ci -p Vision --new-name desk",
        "PATCH /api_keys/key_1",
        {**KEY, "name": "desk"},
        ("Renamed API key ci (key_1) to desk.",),
        {"name": "desk", "update_mask": "name"},
        before=KEY_LOOKUP,
    ),
    row(
        "auth api-keys update ci -p Vision --scope api.model.read --model a/b --source 10.0.0.0/8",
        "PATCH /api_keys/key_1",
        KEY,
        ("Updated API key ci (key_1).",),
        {
            "scopes": ["api.model.read"],
            "allowed_models": ["a/b"],
            "allowed_sources": ["10.0.0.0/8"],
            "update_mask": "scopes,allowed_models,allowed_sources",
        },
        before=KEY_LOOKUP,
    ),
    row(
        "admin limits list",
        "GET /limits",
        {"data": [LIMIT]},
        ("limit_1", "project Vision", "7/60", "1000"),
        before={**PROJECT_LOOKUP, "GET /users": USERS, "GET /api_keys": {"data": [KEY]}},
    ),
    row(
        "admin limits set --project Vision --requests-per-minute 60 --tokens-per-day none",
        "POST /limits",
        LIMIT,
        ("Limited project proj_1 (limit_1).",),
        {
            "subject": "project",
            "subject_id": "proj_1",
            "model": "*",
            "requests_per_minute": 60,
            "tokens_per_day": None,
        },
        before=PROJECT_LOOKUP,
    ),
    row("admin limits delete limit_1", "DELETE /limits/limit_1", {"deleted": True}, ("Took the limits limit_1 away.",)),
    row(
        "admin budgets list",
        "GET /budgets",
        {"data": [BUDGET]},
        ("budget_1", "user ada@x.org", "month", "0.000001", "25.50", "80%", "refuse"),
        before={**PROJECT_LOOKUP, "GET /users": USERS, "GET /api_keys": {"data": [KEY]}},
    ),
    row(
        "admin budgets set --user ada@x.org --amount 25.50 --alert-at 90 --soft",
        "POST /budgets",
        BUDGET,
        ("Gave user user_1 25.50 dollars per month (budget_1).",),
        {
            "subject": "user",
            "subject_id": "user_1",
            "period": "month",
            "amount": "25.50",
            "alert_ratio": 0.9,
            "hard": False,
        },
        before={"GET /users": USERS},
    ),
    row(
        "admin budgets delete budget_1",
        "DELETE /budgets/budget_1",
        {"deleted": True},
        ("Took the budget budget_1 away.",),
    ),
    row(
        "admin quota list",
        "GET /organization/quotas",
        {"data": [QUOTA], "organization": QUOTA, "pool": POOL, "has_more": False},
        (
            "PROJECT",
            "REVIEWS",
            "operator",
            "(organization)",
            "4 + 2",
            "16.0 GiB",
            "0.5",
            "8.0 GiB + any",
            "(all)",
            "64",
        ),
        query={"limit": "100"},
    ),
    row(
        "admin quota set --project Vision --gpu 4 --borrow-gpu 2 --memory 8GiB --borrow-memory any --cpu none",
        "POST /organization/quotas/proj_1",
        QUOTA,
        ("The project Vision may use 4 GPUs and 2 borrowed, any cores, 8.0 GiB of memory and all that is free.",),
        {
            "gpu": {"nominal": 4, "borrowing_limit": 2},
            "cpu": None,
            "memory": {"nominal": 8 * 2**30, "borrowing_limit": None},
        },
        before=PROJECT_LOOKUP,
    ),
    row(
        "admin quota set --cpu 1.5",
        "POST /organization/quotas/org_1",
        {**QUOTA, "subject": "organization", "name": "Acme"},
        ("The organization Acme may use 4 GPUs",),
        {"cpu": {"nominal": 1.5, "borrowing_limit": 0}},
        before=ORGANIZATION_LOOKUP,
    ),
    row(
        "admin quota delete --project Vision",
        "DELETE /organization/quotas/proj_1",
        {"deleted": True},
        ("Took the quota of proj_1 away.",),
        before=PROJECT_LOOKUP,
    ),
]
