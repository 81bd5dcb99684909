"""Reports: what was asked and what came out, as one page that needs no network, with its charts as files beside it.

collect     what is known of a run, from the store alone
charts      its pictures, for a screen and for a phone
page        the page, of the templates in this package
sweep       what is known of a sweep, and its pictures
tensorboard the same curves as event files
comparison  variants side by side as plain text
"""
