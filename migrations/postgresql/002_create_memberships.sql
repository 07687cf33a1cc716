CREATE TYPE membership_role AS ENUM ('owner', 'member');

CREATE TABLE memberships (
    project_id bigint NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    email      text NOT NULL,
    role       membership_role NOT NULL DEFAULT 'member',
    joined_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, email)
);

-- Every project so far has one member: its owner.
INSERT INTO memberships (project_id, email, role, joined_at)
SELECT id, lower(owner), 'owner', created_at FROM projects;
