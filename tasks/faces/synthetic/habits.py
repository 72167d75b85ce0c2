"""Where people put the 68 points on photographs, as steps from the places that anatomy names (`landmarks`).

How they were found: a network that has seen these heads alone predicts on labelled photographs of other people; its mean signed
errors, by turn of the head and less those that it makes on synthetic faces, say how far a definition lies from theirs
(``scripts/photographs.py`` measures them). Nothing here depends on a face: all are constants of the mean head, in dm (the outer
corners of its eyes are 0.83 dm apart), of the left half, mirrored for the right one.
"""

# The 68 points' contour, from the ear to the chin: how far along JAW, in eighths of it, how far inside the silhouette its
# path starts, and how far (dm) beyond the silhouette that is seen people put the point.
ARC = (-0.421, 1.041, 1.832, 2.775, 3.823, 4.791, 5.500, 6.611, 8.0)
START_68 = (0.0, 0.0, 0.010, 0.014, 0.012, 0.018, 0.032, 0.022, 0.006)
BEYOND_68 = (0.036, 0.029, 0.017, 0.022, 0.031, 0.016, 0.0, 0.006, 0.027)
# What becomes of that when the head turns, from the ear that comes nearer to the one that goes away, in full at 90 degrees
# and with the power TURNED_POWER of the sine before: how far along the contour, in its points, and how far outwards (dm).
# People follow the edge of the jawbone on the near side, and start lower on the far one.
TURNED_ALONG = (-0.12, -0.10, -0.20, -0.53, -0.74, -0.60, 0.0, 0.30, 0.04,
                0.69, 0.09, -0.60, -0.66, -0.80, -1.00, -0.94, -0.83)  # fmt: skip
TURNED_OUT = (0.013, 0.016, 0.060, 0.135, 0.140, 0.040, -0.020, -0.024, 0.0,
              0.041, 0.039, 0.0, -0.036, -0.015, 0.010, 0.011, -0.036)  # fmt: skip
TURNED_POWER = 1.5
# How far (dm; outwards, up, forward) people put the other 68 points from the places named above, in the order of `_fixed`.
# Outwards and up choose another place of the skin. Forward leaves it: on a turned head people put the points of a ridge
# on the edge that they see, and do not follow a brow round the temple. Beyond FORWARD_SINE, 40 degrees, the step sideways that
# this makes grows no more: the edge is reached.
FORWARD_SINE = 0.643
HABITS = {
    # inner corner, upper lid from it, outer corner
    "eye": ((0.021, 0.032, 0.013), (0.028, 0.023, 0.006), (0.021, 0.028, 0.013), (0.007, 0.036, -0.026)),
    # along the ridge to the tip, then the base from the wing to the middle
    "nose": ((0.0, 0.015, 0.056), (0.0, -0.001, 0.077), (0.0, -0.015, 0.091), (0.0, -0.022, 0.043),
             (-0.030, -0.012, 0.016), (-0.011, -0.011, 0.016), (0.0, 0.001, 0.006)),
    # upper lip from the middle to the corner, lower lip from there
    "mouth": ((0.0, -0.025, 0.014), (0.005, -0.018, 0.024), (0.0, -0.021, 0.015), (0.007, 0.001, -0.004),
              (0.002, 0.039, 0.015), (0.002, 0.032, 0.024), (0.0, 0.036, 0.015)),
    # inner rim of the upper lip: middle, side, corner
    "rim": ((0.0, 0.020, 0.019), (-0.002, 0.010, 0.026), (0.016, -0.001, -0.010)),
}  # fmt: skip
# The same, all three leaving the skin, for edges that open and for the brow: lower lid from the outer corner, inner rim of the
# lower lip from its side, brow from its outer tip.
LOWER_LID_68 = ((0.011, 0.017, 0.004), (0.007, 0.012, 0.022))
LOWER_RIM_68 = ((-0.004, 0.010, 0.027), (0.0, 0.006, 0.025))
BROW_OFF_68 = ((-0.006, 0.011, 0.114), (-0.009, 0.002, 0.073), (-0.009, -0.007, 0.045), (-0.004, -0.004, 0.033),
               (-0.001, -0.005, 0.022))  # fmt: skip
