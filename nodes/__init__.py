"""What a user sees in the editor: schema, tooltips, checks of the input, then a call."""
