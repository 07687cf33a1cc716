UPDATE projects
SET slug = project_slug(title, id)
WHERE id BETWEEN :batch_start AND :batch_end
  AND slug IS NULL;
