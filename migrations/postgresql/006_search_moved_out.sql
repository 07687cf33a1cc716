-- squawk-ignore ban-drop-column
ALTER TABLE projects DROP COLUMN search_text;
-- squawk-ignore adding-not-nullable-field
ALTER TABLE projects ALTER COLUMN slug SET NOT NULL;
