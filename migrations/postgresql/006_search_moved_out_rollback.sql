-- squawk-ignore ban-drop-not-null
ALTER TABLE projects ALTER COLUMN slug DROP NOT NULL;
ALTER TABLE projects ADD COLUMN search_text text;
UPDATE projects SET search_text = lower(title || ' ' || summary);
