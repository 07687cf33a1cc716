ALTER TABLE projects
    ADD COLUMN slug text,
    ADD COLUMN visibility text NOT NULL DEFAULT 'private'
        CHECK (visibility IN ('private', 'public'));

CREATE FUNCTION project_slug(title text, id bigint) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT trim(BOTH '-' FROM regexp_replace(lower(title), '[^a-z0-9]+', '-', 'g')) || '-' || id
$$;

CREATE FUNCTION projects_set_slug() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.slug := coalesce(NEW.slug, project_slug(NEW.title, NEW.id));
    RETURN NEW;
END
$$;

CREATE TRIGGER set_slug BEFORE INSERT ON projects
FOR EACH ROW EXECUTE FUNCTION projects_set_slug();
