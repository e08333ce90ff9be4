"""Objects and zones measured, exactly and in any blocks."""
