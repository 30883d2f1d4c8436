-- brake::lock_one
SELECT p.name FROM pools p WHERE p.name = $1 FOR NO KEY UPDATE
