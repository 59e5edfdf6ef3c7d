"Forms of files: each gives the right arrays, or is refused by name; then real files, as they were found"
import json, struct
from collections import Counter
from io import BytesIO

import numpy as np, pytest
from PIL import Image, ImageCms
from shineon.core.errors import DataError, OptionError
from shineon.core.pixels import as_rgb, is_plain
from shineon.data.formats import (
    LABEL_SETS, MASK_WAYS, PARSE, PARSE_COLOURS, _nearest, backward_flow, body25_names, coco17_names,
    fill_outline, flow_mismatch, flow_of_array, flow_of_kitti, garment_mask, ground_colour, join_iuv,
    joints_on_person, known_flow, label_pixels, mask_doubts, mask_of_file, parse_names, part_colours,
    recognise_densepose, recognise_flow, recognise_parse, to_coco18, to_iuv, to_labels, to_lip)
from shineon.data.frame_files import FILES, ResizeCrop
from shineon.data.labels import COCO, LIP, clothes_ids, coco_names

h, w = 128, 96

def through(im, kind='PNG', **how):
    "Write a picture and open it again"
    im.save(file := BytesIO(), kind, **how)
    return Image.open(BytesIO(file.getvalue()))

def box(a, value, top, bottom, left, right): a[top:bottom,left:right] = value

def drawn_parse():
    "A person in our labels: hair, face, neck, upper-clothes, arms, pants, legs, shoes"
    a = np.zeros((h,w), np.uint8)
    boxes = dict(hair=(4,12,40,56), face=(12,24,40,56), neck=(24,30,44,52), right=(30,70,20,30), left=(30,70,66,76))
    for name,place in boxes.items(): box(a, PARSE.get(name) or LIP[f'{name}-arm'], *place)
    box(a, LIP['upper-clothes'], 30, 70, 30, 66)
    box(a, LIP['pants'], 70, 100, 30, 66)
    for side,left in (('right', 32), ('left', 52)):
        box(a, LIP[f'{side}-leg'], 100, 116, left, left+12)
        box(a, LIP[f'{side}-shoe'], 116, 124, left, left+12)
    return a

def drawn_iuv():
    "Blocks of all 24 parts, with places on them"
    parts = np.zeros((h,w), np.uint8)
    for i in range(24): box(parts, i+1, 8 + i//4*18, 26 + i//4*18, 8 + i%4*20, 28 + i%4*20)
    y,x = np.mgrid[:h,:w]
    return np.dstack([parts, (parts > 0)*(x*2 + 30), (parts > 0)*(y + 100)]).astype(np.uint8)

parse, iuv = drawn_parse(), drawn_iuv()
photo = np.random.default_rng(0).integers(0, 256, (h//8,w//8,3), np.uint8).repeat(8, 0).repeat(8, 1)

def refuses(call, *words):
    with pytest.raises(DataError) as e: call()
    for word in (*words, 'a_file'): assert word in str(e.value), (word, str(e.value))
    assert '\n' not in str(e.value)

# pictures

def cut_out(): # the photo's lower half is seen; above, the file has red
    alpha = np.where(np.arange(h) < h//2, 0, 255)[:,None].repeat(w, 1).astype(np.uint8)
    hidden = np.where(alpha[...,None] > 0, photo, [200,0,0]).astype(np.uint8)
    return hidden, alpha, np.where(alpha[...,None] > 0, photo, 255)

def srgb(change=lambda b: b): return change(ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())

def red_is_blue(profile): # a profile in which these change places, under another name
    profile = profile.replace(b'rXYZ', b'....').replace(b'bXYZ', b'rXYZ').replace(b'....', b'bXYZ')
    return profile.replace('sRGB'.encode('utf-16-be'), 'mine'.encode('utf-16-be'))

def dark_grey():
    "A profile of grey with gamma 3, in which 158 is what sRGB calls 128"
    white = struct.pack('>3i', 63190, 65536, 54061)
    tags = dict(desc=b'desc\0\0\0\0\0\0\0\5grey\0' + b'\0'*78, wtpt=b'XYZ \0\0\0\0' + white,
                kTRC=b'curv\0\0\0\0' + struct.pack('>IHH', 1, 3*256, 0), cprt=b'text\0\0\0\0none\0\0\0\0')
    table, body = struct.pack('>I', len(tags)), b''
    for k,v in tags.items():
        table += k.encode() + struct.pack('>II', 132 + 12*len(tags) + len(body), len(v))
        body += v + b'\0'*(-len(v) % 4)
    head = struct.pack('>I4xI4s4s4s12x4s28x', 128 + len(table + body), 0x2400000, b'mntr', b'GRAY', b'XYZ ', b'acsp')
    return (head + white).ljust(128, b'\0') + table + body

def darker(a): # from gamma 3 to sRGB
    a = (a/255)**3
    return np.where(a > .0031308, 1.055*a**(1/2.4) - .055, 12.92*a)*255

hidden, alpha, seen = cut_out()
grey, grey_seen = (np.repeat(a[...,:1], 3, -1) for a in (photo, seen))
im = Image.fromarray
keyed = np.where(alpha[...,None] > 0, photo | 1, [200,0,0]).astype(np.uint8) # no pixel of the photo is red like that

few = im(hidden).quantize(255) # colours
few_seen = np.where(alpha[...,None] > 0, np.array(few.convert('RGB')), 255)
half = alpha//2 + 1
swapped = srgb(red_is_blue)

pictures = { # how a file is made; what is meant; how many levels it may be off; what is counted
    'alpha': (lambda: through(im(np.dstack([hidden, alpha]))), seen, 0, 'transparent parts made white'),
    'grey with alpha': (lambda: through(Image.merge('LA', [im(photo[...,0]), im(alpha)])), grey_seen, 0, 'transparent'),
    'half transparent': (lambda: through(im(np.dstack([photo*0, half]))), np.dstack([255 - half]*3), 1, 'transparent'),
    'colour that is transparent': (lambda: through(im(keyed), transparency=(200,0,0)),
                                   np.where(alpha[...,None] > 0, keyed, 255), 0, 'transparent'),
    'palette with transparency': (lambda: through(few, transparency=few.getpixel((0,0))), few_seen, 0, 'transparent'),
    'grey profile': (lambda: through(im(photo[...,0]), icc_profile=dark_grey()), darker(grey), 3, 'brought to sRGB'),
    'grey profile, alpha': (lambda: through(Image.merge('LA', [im(photo[...,0]), im(alpha)]), icc_profile=dark_grey()),
                            np.where(alpha[...,None] > 0, darker(grey), 255), 3, 'brought to sRGB'),
    '16 bits, dark': (lambda: through(im(photo[...,0].astype(np.uint16))), grey*0, 1, ''),
    '16 bits': (lambda: through(im(photo[...,0].astype(np.uint16)*257)), grey, 0, ''),
    '16 bits, TIFF': (lambda: through(im(photo[...,0].astype(np.uint16)*257), 'TIFF'), grey, 0, ''),
    '32 bits': (lambda: through(im(photo[...,0].astype(np.int32)*257), 'TIFF'), grey, 0, ''),
    'floats to 1': (lambda: through(im(photo[...,0].astype(np.float32)/255), 'TIFF'), grey, 0, ''),
    'floats to 255': (lambda: through(im(photo[...,0].astype(np.float32)), 'TIFF'), grey, 0, ''),
    'CMYK': (lambda: through(im(photo).convert('CMYK'), 'TIFF'), photo, 0, ''),
    'CMYK, JPEG': (lambda: through(im(photo).convert('CMYK'), 'JPEG', quality=100), photo, 40, ''),
    'profile': (lambda: through(im(photo), icc_profile=swapped), photo[...,::-1], 2, 'colours brought to sRGB'),
    'profile, alpha': (lambda: through(im(np.dstack([hidden, alpha])), icc_profile=swapped), seen[...,::-1], 2,
                       'colours brought to sRGB'),
    'sRGB': (lambda: through(im(photo), icc_profile=srgb()), photo, 0, ''),
    'broken profile': (lambda: through(im(photo), icc_profile=b'nonsense'), photo, 0, 'colour profile left out'),
    'profile of colours, on grey': (lambda: through(im(photo[...,0]), icc_profile=srgb()), grey, 0,
                                    'colour profile left out'),
    'one bit': (lambda: through(im(photo[...,0] > 99)), (grey > 99)*255, 0, ''),
}

@pytest.mark.parametrize('case', pictures.values(), ids=pictures)
def test_pictures(case):
    make, meant, off, counted = case
    counts = Counter()
    rgb, found_alpha = as_rgb(make(), 'a_file', counts)
    assert rgb.dtype == np.uint8 and np.abs(rgb.astype(int) - meant).max() <= off
    assert (found_alpha is not None) == (counts['transparent parts made white'] == 1)
    assert any(counted in k for k in counts) if counted else not counts
    assert not is_plain(make())

def test_alpha_is_the_mask():
    for o in ('alpha', 'grey with alpha', 'palette with transparency', 'profile, alpha'):
        assert ((as_rgb(pictures[o][0]())[1] > 0) == (alpha > 0)).all(), o
    assert as_rgb(through(im(np.dstack([photo, alpha*0 + 255]))))[1] is None # all is opaque

@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation(orientation):
    back = {2: Image.FLIP_LEFT_RIGHT, 3: Image.ROTATE_180, 4: Image.FLIP_TOP_BOTTOM, 5: Image.TRANSPOSE,
            6: Image.ROTATE_90, 7: Image.TRANSVERSE, 8: Image.ROTATE_270} # what a camera held so writes
    stored = im(photo).transpose(back[orientation]) if orientation > 1 else im(photo)
    exif = Image.Exif()
    exif[274] = orientation
    for kind,how in (('PNG', {}), ('JPEG', dict(quality=95, subsampling=0))):
        counts = Counter()
        rgb, _ = as_rgb(through(stored, kind, exif=exif, **how), counts=counts)
        assert np.abs(rgb.astype(int) - photo).mean() < 3 and rgb.shape == photo.shape
        assert counts['turned upright'] == (orientation > 1)

def test_plain_pictures_are_left_alone():
    for o in (im(photo), im(photo[...,0])):
        assert is_plain(through(o)) and (as_rgb(through(o))[0] == np.array(o.convert('RGB'))).all()

no_pictures = {
    'all transparent': (lambda: through(im(np.dstack([photo, alpha*0]))), 'all of this picture is transparent'),
    'NaN': (lambda: im(np.float32([[0, np.nan]])), 'are no picture'),
    'negative': (lambda: im(np.float32([[0, -3]])), 'grey values from -3 to 0'),
    'too large': (lambda: im(np.float32([[0, 1e6]])), 'grey values from 0 to 1e+06'),
}

@pytest.mark.parametrize('case', no_pictures.values(), ids=no_pictures)
def test_no_pictures(case):
    make, words = case
    refuses(lambda: as_rgb(make(), 'a_file'), words)

# DensePose

parts = iuv[...,0]
def in_colours(name): return part_colours(name)[parts]
def as_jpeg(a, quality=92): return np.array(through(im(a), 'JPEG', quality=quality))
def enlarged(a, n=4): return a.repeat(n, 0).repeat(n, 1)
only_parts = np.dstack([parts, parts*0, parts*0])
on_black = np.where(parts[...,None] > 0, in_colours('parula'), 0).astype(np.uint8)

dense = {'iuv': (iuv, 'iuv', iuv), 'iuv without places': (only_parts, 'iuv', only_parts),
         'BGR': (iuv[...,::-1], 'vui', iuv), 'BGR without places': (only_parts[...,::-1], 'vui', only_parts),
         'one channel': (parts, 'parts', only_parts),
         'three equal channels': (np.dstack([parts]*3), 'grey', only_parts),
         **{n: (in_colours(n), n, only_parts) for n in ('parula', 'viridis', 'jet')},
         'parula on black': (on_black, 'parula', only_parts)}

@pytest.mark.parametrize('case', dense.values(), ids=dense)
def test_densepose(case):
    pixels, form, meant = case
    assert recognise_densepose([pixels]) == form
    out = to_iuv(pixels, form, 'a_file')
    assert (out == meant).all() and out.dtype == np.uint8 and out.flags.c_contiguous
    empty = pixels*0
    assert not to_iuv(empty, form).any() # a frame without a person, in any form
    assert recognise_densepose([empty, pixels]) == form
    for other in {f for _,f,_ in dense.values()} - {form}: # never read as something else
        refuses(lambda: to_iuv(pixels, other, 'a_file'), f'not DensePose of the form {other}')

def test_coloured_jpegs():
    large = as_jpeg(enlarged(on_black))
    assert recognise_densepose([large]) == 'parula'
    again = to_iuv(large, 'parula')[...,0]
    assert (again == enlarged(parts)).mean() > .985
    naive = _nearest(large, part_colours('parula')[:25])[0] # without care for edges and for the black ground
    assert (naive == enlarged(parts)).mean() < (again == enlarged(parts)).mean()
    assert recognise_densepose([large, enlarged(on_black)]) == 'parula'
    refuses(lambda: to_iuv(as_jpeg(on_black, 30), 'parula', 'a_file'), 'of the person has no colour of parula')

dark = np.zeros_like(iuv)
dark[9:20,9:20] = [2, 20, 24] # red and blue could both be I
no_dense = {
    'photo': ([photo], 'no DensePose: 3 channels with values up to'),
    'parse': ([parse*(parse < 20)], 'a parse or a mask, not DensePose'),
    'mask': ([(parts > 0)*1], 'no part above 1 '),
    'mask of 255': ([(parts > 0)*255], 'no DensePose: 1 channel with values up to 255'),
    'stretched': ([parts*10], 'values up to 240'),
    'I in the middle': ([iuv[...,[1,0,2]]], 'no DensePose'),
    'RGBA': ([np.dstack([iuv, parts])], '4 channels'),
    'two forms fit': ([dark], 'fits iuv and vui'),
    'two forms in a set': ([iuv, iuv[...,::-1]], 'no DensePose'),
    'two kinds in a set': ([iuv, parts], '1 or 3 channels'),
    'nobody': ([iuv*0, iuv*0], 'nobody is in these DensePose pictures'),
}

@pytest.mark.parametrize('case', no_dense.values(), ids=no_dense)
def test_no_densepose(case):
    pixels, words = case
    refuses(lambda: recognise_densepose([p.astype(np.uint8) for p in pixels], 'a_file'), words)

def test_dark_pictures_take_the_declared_form():
    assert (to_iuv(dark, 'iuv') == dark).all() and (to_iuv(dark, 'vui') == dark[...,::-1]).all()
    assert recognise_densepose([dark, iuv[...,::-1]]) == 'vui'
    with pytest.raises(OptionError, match='Choose from iuv, vui, parts'): to_iuv(iuv, 'bgr')

def test_parts_and_places_in_two_files():
    uv = np.moveaxis(iuv[...,1:], -1, 0).astype(np.float32)/255
    assert (join_iuv(parts, uv) == iuv).all()
    for bad in (uv[:,1:], uv*255, uv*np.nan): refuses(lambda: join_iuv(parts, bad, 'a_file'), 'no U and V')

# parse

def in_set(name):
    "The drawn parse in another set's numbers; what that lacks is background"
    names = LABEL_SETS[name].labels
    numbers = np.uint8([names.index(n) if n in names else 0 for n in parse_names])
    return numbers[parse]

without_neck = np.where(parse == PARSE['neck'], 0, parse)
sets = dict(lip=without_neck, cihp=parse, **{'cp-vton+': parse}, atr=without_neck)

@pytest.mark.parametrize('name', sets)
def test_label_sets(name):
    there = in_set(name)
    palettes = [c for c in PARSE_COLOURS.values() if len(c) > there.max()]
    for pixels in (there, np.dstack([there]*3), *(c[there] for c in palettes)):
        assert recognise_parse([pixels]) == name
        assert (to_lip(pixels, name, 'a_file') == sets[name]).all()
    if name in ('cihp', 'atr'): assert (there != sets[name]).any() # there is something to convert

def test_names_of_data_sets():
    for name,of in dict(viton='lip', vvt='lip', vitonhd='cihp', mpv='cihp', dresscode='atr').items():
        assert LABEL_SETS[name].name == of
    assert LABEL_SETS['vitonhd'].labels[10] == 'neck' and LABEL_SETS['lip'].labels[10] == 'jumpsuits'

def test_names_of_atr():
    "As its tools list them; what we have no name for stands in brackets"
    names = ('background hat hair sunglasses upper-clothes skirt pants dress (belt) left-shoe right-shoe face '
             'left-leg right-leg left-arm right-arm (bag) scarf')
    names = names.replace('(belt)', 'pants').replace('(bag)', 'background')
    assert ' '.join(LABEL_SETS['atr'].labels) == names

def with_palette(numbers, colours):
    o = im(numbers)
    o.putpalette(np.uint8(colours).ravel().tolist())
    return through(o)

lip_colours = PARSE_COLOURS['lip']
used = np.unique(without_neck)
renumbered = np.searchsorted(used, without_neck).astype(np.uint8)
files = {
    'grey': lambda: through(im(without_neck)),
    'palette of LIP': lambda: with_palette(without_neck, lip_colours),
    "VITON's palette of 254": lambda: with_palette(without_neck, np.minimum(lip_colours, 254)),
    'palette of its own': lambda: with_palette(without_neck, np.arange(60).reshape(20, 3)*4),
    'renumbered, with colours': lambda: with_palette(renumbered, lip_colours[used]),
    'renumbered, with greys': lambda: with_palette(renumbered, used[:,None].repeat(3, 1)),
    'RGB': lambda: through(im(lip_colours[without_neck])),
    'RGBA': lambda: through(im(lip_colours[without_neck]).convert('RGBA')),
    'grey, alpha': lambda: through(Image.merge('LA', [im(without_neck), im(alpha*0 + 255)])),
    '16 bits': lambda: through(im(without_neck.astype(np.uint16))),
}

@pytest.mark.parametrize('make', files.values(), ids=files)
def test_parse_files(make):
    assert (to_lip(label_pixels(make()), 'lip', 'a_file') == without_neck).all()

def spoilt(value, share):
    "The parse with a value in some of its pixels"
    a = in_set('lip').copy()
    a.ravel()[:int(share*a.size)] = value
    return a

person = (parse > 0).astype(np.uint8)
smeared = as_jpeg(in_set('lip'), 90)
no_parse = {
    'mask of 0 and 1': (person, 'a mask of 0, 1'),
    'mask of 0 and 255': (person*255, 'a mask of 0, 255'),
    "CP-VTON+'s mask": (np.where(np.arange(w) % 9, person*255, person*253 + 1), 'a mask of 0, 1, 254, 255'),
    'stretched': (in_set('lip')*13, 'stretched to be seen'),
    'labels above 20': (spoilt(37, .2), 'no label is above 20'),
    'smeared': (smeared, 'no parse' if smeared.max() > 20 else 'smeared'),
    'smeared, and in range': (np.minimum(smeared, 19), 'the labels of this parse are smeared'),
    'void': (spoilt(255, .2), '20% of it is 255 (void)'),
    'photo': (photo, 'is in no known palette'),
    'colours, JPEG': (as_jpeg(lip_colours[in_set('lip')]), 'is in no known palette'),
    'RGBA': (np.dstack([lip_colours[in_set('lip')], alpha]), 'a parse of shape'),
    'floats': (in_set('lip')/20, 'float64'),
    'another set': (parse, 'label 20, and the largest of lip is 19'),
}

@pytest.mark.parametrize('case', no_parse.values(), ids=no_parse)
def test_no_parse(case):
    pixels, words = case
    refuses(lambda: to_lip(pixels, 'lip', 'a_file'), words)

@pytest.mark.parametrize('quality', (75, 95, 100))
def test_smeared_at_any_quality(quality):
    tilted = np.array(im(in_set('lip')).rotate(8)) # real outlines are not all upright
    for a in (tilted, np.array(im(tilted).resize((768,1024), Image.NEAREST).rotate(-4))):
        assert (to_labels(a) == a).all()
        refuses(lambda: to_labels(np.minimum(as_jpeg(a, quality), 19), 'a_file'), 'smeared')

@pytest.mark.parametrize('size', ((64,48), (200,150), (512,384)))
def test_scaled_as_if_it_were_a_photo(size):
    def scaled(how): return np.array(im(in_set('lip')).resize(size[::-1], how))
    refuses(lambda: to_labels(scaled(Image.BILINEAR), 'a_file'), 'smeared', 'scale it by `nearest`')
    assert set(np.unique(to_labels(scaled(Image.NEAREST)))) == set(np.unique(in_set('lip')))

def test_few_odd_pixels_are_counted():
    counts = Counter()
    assert (to_labels(spoilt(255, .008), counts=counts) == in_set('lip')).all()
    colours = lip_colours[in_set('lip')]
    colours[0,:50] = [67,101,34] # as an editor mixes them
    assert (to_labels(colours, counts=counts) == in_set('lip')).all()
    assert counts == {'void pixels of parses made background': int(.008*h*w),
                      'pixels of parses with unknown colours': 50}
    assert not to_labels(parse*0).any() # a frame without a person

no_set = {
    'no face': ([np.where(parse == LIP['face'], 0, parse)], 'no face in these parses'),
    'two sets': ([in_set('lip'), in_set('atr')], 'the face is 13 in 1 of these parses'),
    'ATR with shoes of LIP': ([np.where(in_set('atr') == 9, np.uint8(19), in_set('atr'))], 'Declare its label set'),
    'skin or jumpsuits': ([in_set('cihp')]*2 + [in_set('lip')]*4, 'label 10 is in 2 of 6 parses'),
}

@pytest.mark.parametrize('case', no_set.values(), ids=no_set)
def test_no_label_set(case):
    refuses(lambda: recognise_parse(case[0], 'a_file'), case[1])

def test_a_jumpsuit_makes_no_cihp(): assert recognise_parse([in_set('cihp')] + [in_set('lip')]*15) == 'lip'

# joints

true = np.zeros((18,3))
places = dict(nose=(48,18), neck=(48,30), hip=(8,70), knee=(8,100), ankle=(8,120), shoulder=(18,30), elbow=(22,50),
              wrist=(23,68), eye=(3,15), ear=(6,16))
for i,n in enumerate(coco_names):
    side, x, y = n.split('-')[0], *places[n.split('-')[-1]]
    true[i] = {'right': 48-x, 'left': 48+x}.get(side, x), y, .9
true[COCO['left-knee']] = true[COCO['left-ankle']] = 0 # not found
named = dict(zip(coco_names, true))


def flat(names): return np.concatenate([named.get(n, np.zeros(3)) for n in names]).tolist()

def one(numbers, key='pose_keypoints_2d', **more): return dict(people=[{key: numbers}], **more)

def scaled(ry, rx): # where joints are in a picture so many times as large; those not found stay at 0
    return np.where(true[:,2:] > 0, (true + [.5,.5,0])*[rx,ry,1] - [.5,.5,0], 0)

rows = np.where(true[:,2:] > 0, np.column_stack([scaled(4, 4), np.arange(18)]), [-1,-1,0,-1]) # DressCode's, 384x512
gap = np.where(true[:,2:] > 0, true, np.nan)
joints = {
    'COCO-18, new': (one(true.ravel().tolist()), {}),
    'COCO-18, old': (one(true.ravel().tolist(), 'pose_keypoints'), {}),
    'BODY_25': (one(flat(body25_names)), {}), 'a list of people': ([dict(keypoints=flat(coco_names))], {}),
    'DressCode': (dict(keypoints=rows.tolist()), {}), 'rows of three': (dict(keypoints=true.tolist()), {}),
    'canvas in the file': (one(scaled(3, 3).ravel().tolist(), canvas_height=3*h, canvas_width=3*w), {}),
    'declared size': (one(scaled(.5, .5).ravel().tolist()), dict(size=(h//2,w//2))),
    '0 to 1': (one((true/[w,h,1]).ravel().tolist()), {}),
    'missing as -1': (one(np.where(true[:,2:] > 0, true, [-1,-1,0]).ravel().tolist()), {}),
    'missing in the corner': (one(np.where(true[:,2:] > 0, true, [0,0,.5]).ravel().tolist()), {}),
    'missing as -1, yet sure': (one(np.where(true[:,2:] > 0, true, [-1,-1,1]).ravel().tolist()), {}),
    'missing as null': (one([None if np.isnan(v) else v for v in gap.ravel()]), {}),
    'missing as NaN': (json.loads(json.dumps(one(gap.ravel().tolist()))), {}),
    'an empty person first': (dict(people=[dict(pose_keypoints_2d=[]), *one(flat(coco_names))['people']]), {}),
    'both keys, one empty': (dict(people=[dict(pose_keypoints_2d=flat(coco_names), pose_keypoints=[])]), {}),
}

@pytest.mark.parametrize('case', joints.values(), ids=joints)
def test_joints(case):
    contents, how = case
    out = to_coco18(contents, h, w, where='a_file', **how)
    assert out.shape == (18,3) and out.dtype == np.float32
    assert np.abs(out - true).max() < 1e-3

def test_a_neck_for_coco17():
    out = to_coco18(one(flat(coco17_names), 'keypoints'), h, w)
    rest = [i for i,n in enumerate(coco_names) if n != 'neck']
    assert np.abs(out[rest] - true[rest]).max() < 1e-3
    assert np.allclose(out[COCO['neck']], [48, 30, .9])
    alone = np.array(flat(coco17_names)).reshape(17, 3)
    alone[coco17_names.index('left-shoulder')] = 0
    assert not to_coco18(one(alone.ravel().tolist()), h, w)[COCO['neck']].any() # not halfway to the corner

def people(*them): return dict(people=[dict(pose_keypoints_2d=np.asarray(p).ravel().tolist()) for p in them])

small = np.where(true[:,2:] > 0, true*[.3,.3,1], 0) # in the corner
aside = np.where(true[:,2:] > 0, true*[1,1.02,1] + [-19,0,0], 0) # larger, beside the person of the parse

@pytest.mark.parametrize('order', (1, -1))
def test_several_people(order):
    counts = Counter()
    assert np.abs(to_coco18(people(*[small, true][::order]), h, w, counts=counts) - true).max() < 1e-3 # the largest
    both = people(*[aside, true][::order])
    assert np.abs(to_coco18(both, h, w, parse) - true).max() < 1e-3 # the one on the parse
    assert np.abs(to_coco18(both, h, w) - true).max() > 9 # without it, the larger one
    assert counts == {'files with several people': 1}
    assert joints_on_person(true, parse)[0] > joints_on_person(aside, parse)[0]

@pytest.mark.parametrize('contents', (dict(people=[]), [], people([]), people(true*0), dict(people=[], version=1.3)))
def test_nobody(contents): assert not to_coco18(contents, h, w).any()

def test_what_is_left_out_is_counted():
    counts = Counter()
    odd = true.copy()
    odd[COCO['nose']] = np.nan
    odd[COCO['left-ankle']] = [50, h + 40, .2] # a leg goes on below the picture
    out = to_coco18(people(odd), h, w, counts=counts)
    assert not out[[COCO['nose'],COCO['left-ankle']]].any() and (out > 0).any(1).sum() == (true > 0).any(1).sum() - 1
    assert counts == {'joints of NaN left out': 1, 'joints outside the frame left out': 1}

no_joints = {
    '57 numbers': (one([1.]*57), 'a person has 57 numbers; known are 54 (COCO-18)'),
    '51 numbers of COCO-18': (one(flat(coco_names)[:51]), '51 numbers, not of COCO-17'),
    'text': (one(['a']*54), 'joints that are no numbers'),
    'ragged': (dict(keypoints=[[1, 2], [3]]), 'joints that are no numbers'),
    'null': (one(None), 'joints that are no numbers'),
    'other keys': (dict(people=[dict(hand_left_keypoints_2d=[])]), 'no people with joints'),
    'number': (7, 'no people with joints'), 'null file': (None, 'no people with joints'),
    'text file': ('a', 'no people with joints'),
    'larger picture': (one(scaled(4, 4).ravel().tolist()), f'joints lie outside the {w}x{h} frame'),
    'another shape': (one(flat(coco_names), canvas_height=512, canvas_width=512), 'joints of 512x512 pictures'),
    '-1 to 1': (one((true/[w/2,h/2,1] - [1,1,0]*(true[:,2:] > 0)).ravel().tolist()), 'joints between -1 and 1'),
}

@pytest.mark.parametrize('case', no_joints.values(), ids=no_joints)
def test_no_joints(case):
    contents, words = case
    refuses(lambda: to_coco18(contents, h, w, where='a_file'), words)

# flow

y, x = np.mgrid[:h,:w].astype(np.float32)
flow = np.stack([3 + y/64, -2 - x/32], -1)

def as_bytes(save, *a, **kw):
    save(file := BytesIO(), *a, **kw)
    return file.getvalue()

def kitti(flow, valid):
    import cv2
    numbers = np.rint((flow + 512)*64)
    return cv2.imencode('.png', np.dstack([valid, numbers[...,1], numbers[...,0]]).astype(np.uint16))[1].tobytes()

arrays = {
    'npy': lambda: as_bytes(np.save, flow), 'npy, planes': lambda: as_bytes(np.save, np.moveaxis(flow, -1, 0)),
    'npy of doubles': lambda: as_bytes(np.save, flow.astype(float)),
    'npy, a batch of one': lambda: as_bytes(np.save, flow[None]),
    'npz': lambda: as_bytes(np.savez, flow),
    'npz, compressed': lambda: as_bytes(np.savez_compressed, flow=flow, valid=flow[...,0]),
}

@pytest.mark.parametrize('make', arrays.values(), ids=arrays)
def test_flow_arrays(make):
    out = flow_of_array(make(), 'a_file')
    assert (out == flow).all() and out.dtype == np.float32

def test_flow_of_kitti():
    valid = np.ones((h,w))
    valid[:9] = 0
    out = flow_of_kitti(kitti(flow, valid), 'a_file')
    assert np.abs(out - flow)[9:].max() <= 1/128 + 1e-4 and np.isnan(out[:9]).all()
    counts = Counter()
    known = known_flow(out, counts=counts)
    assert not known[:9].any() and (known[9:] == out[9:]).all() and counts == {'unknown pixels of flow set to 0': 9*w}

def test_labels_of_16_bits_are_read_as_bytes(tmp_path):
    Image.fromarray(drawn_parse().astype(np.uint16)).save(tmp_path/'a.png')
    read = FILES['parse'].load(tmp_path/'a.png', ResizeCrop((h,w), h, w))
    assert read.dtype == np.uint8 and np.array_equal(read, drawn_parse())

@pytest.mark.parametrize('unknown', (1666666752, -2e9, np.nan, np.inf))
def test_unknown_flow(unknown):
    spoilt, counts = flow.copy(), Counter()
    spoilt[3,4,1] = unknown
    out = known_flow(spoilt, 'a_file', counts)
    assert not out[3,4].any() and counts == {'unknown pixels of flow set to 0': 1}
    out[3,4] = flow[3,4]
    assert (out == flow).all() and known_flow(flow) is flow
    refuses(lambda: known_flow(np.where(x[...,None] < 60, unknown, flow), 'a_file'), 'of this flow is unknown')

no_flow = {
    'nonsense': (lambda: flow_of_array(b'nonsense', 'a_file'), 'no NumPy file'),
    'nothing': (lambda: flow_of_array(b'', 'a_file'), 'no NumPy file'),
    'cut': (lambda: flow_of_array(as_bytes(np.save, flow)[:200], 'a_file'), 'unreadable flow file'),
    'objects': (lambda: flow_of_array(as_bytes(np.save, np.array([{}])), 'a_file'), 'unreadable flow file'),
    'one plane': (lambda: flow_of_array(as_bytes(np.save, flow[...,0]), 'a_file'), f'shape ({h}, {w})'),
    'whole numbers': (lambda: flow_of_array(as_bytes(np.save, flow.astype(int)), 'a_file'), 'int64'),
    'two arrays': (lambda: flow_of_array(as_bytes(np.savez, a=flow, b=flow), 'a_file'), 'flow is not a file'),
    'colours': (lambda: flow_of_kitti(as_bytes(lambda f: im(photo).save(f, 'PNG')), 'a_file'), 'perhaps its colours'),
    'no PNG': (lambda: flow_of_kitti(b'nonsense', 'a_file'), 'unreadable flow file'),
}

@pytest.mark.parametrize('case', no_flow.values(), ids=no_flow)
def test_no_flow(case): refuses(*case)

def textured():
    "A smooth random picture, larger than needed"
    import cv2
    noise = np.random.default_rng(1).integers(0, 256, (h+40,w+40,3)).astype(np.float32)
    return (cv2.GaussianBlur(noise, (0,0), 3)*4 - 380).clip(0, 255).astype(np.uint8)

def test_direction_of_flow():
    wide = textured()
    previous, now = wide[20:20+h,20:20+w], wide[16:16+h,26:26+w] # what is at x now was at x + (6, -4)
    backward = np.full((h,w,2), [6,-4], np.float32)
    assert flow_mismatch(backward, now, previous) < 1 < flow_mismatch(-backward, now, previous)
    assert recognise_flow([(backward, now, previous)]) == 'backward'
    assert recognise_flow([(-backward, now, previous)]) == 'forward'
    assert (backward_flow(-backward) == backward).all()
    assert recognise_flow([(backward*0, now, now)]) == 'backward' # nothing moves
    refuses(lambda: recognise_flow([(backward*4, now, previous)], 'a_file'), 'does not fit its frames')

def test_nearer_things_hide_others():
    forward = np.zeros((9,9,2), np.float32)
    forward[4,2] = [3,0] # a fast pixel lands where a still one is
    out = backward_flow(forward)
    assert (out[4,5] == [-3,0]).all() and (np.abs(out).sum(-1) > 0).sum() == 1

# garment masks

garment = np.zeros((256,192), bool)
garment[40:220,50:142] = garment[60:110,15:177] = True
my, mx = np.mgrid[:1:256j, :1:192j]
noise = np.random.default_rng(0).normal(0, 1, (256,192,1))
red = np.full((256,192,3), [180,60,50])

def on(ground, colour): return (np.where(garment[...,None], colour, ground) + noise).clip(0, 255).astype(np.uint8)

light = (200 - 60*(mx + my)**2/4)[...,None]*[1,1,.97]
middle = ((np.abs(mx - .5) < .2) & (np.abs(my - .5) < .2))[...,None]
photos = { # photo; ways of guessing that find the garment
    'red on white': (on(255, red), ('white', 'ground', 'grabcut')),
    'red on light grey': (on(235, red), ('ground', 'grabcut')),
    'red in a studio': (on(light, red), ('ground', 'grabcut')),
    'white in a studio': (on(light, red*0 + 250), ('ground', 'grabcut')),
    'white on light grey': (on(243, red*0 + 253), ('ground', 'grabcut')),
    'white print': (on(255, np.where(middle, 255, red)), ('ground', 'grabcut')),
    'red on white, JPEG': (as_jpeg(on(255, red), 80), ('white', 'ground', 'grabcut')),
}

def overlap(mask): return ((mask > 0) & garment).sum()/((mask > 0) | garment).sum()

@pytest.mark.parametrize('case', photos.values(), ids=photos)
def test_guesses(case):
    shown, good = case
    for way in MASK_WAYS:
        mask = garment_mask(shown, way=way)
        assert set(np.unique(mask)) <= {0, 255} and mask.shape == garment.shape
        assert (overlap(mask) > .9) == (way in good), (way, overlap(mask))
        assert (mask_doubts(mask) == []) == (way in good), mask_doubts(mask)
    assert ((garment_mask(shown, alpha=(garment*255).astype(np.uint8)) > 0) == garment).all() # alpha counts first

def test_halos_and_spots_are_left_out():
    clean = np.where(garment[...,None], red, 255).astype(np.uint8)
    clean[8:14,8:14] = 0 # a crumb
    shown = as_jpeg(clean, 80)
    mask = garment_mask(shown, way='ground')
    assert not mask[:30,:40].any() and overlap(mask) > .97
    assert overlap(fill_outline(np.abs(shown.astype(int) - 255).max(-1) > 5)) < .95 # with its halo

def test_the_ground_under_a_garment():
    for name,meant in {'red on white': 254.5, 'red in a studio': light}.items(): # noise is cut off at 255
        ground, spread = ground_colour(photos[name][0])
        assert np.abs(ground - meant).max() < 2 and spread < 4

mask = (garment*255).astype(np.uint8)
mask_files = {'0 and 255': mask, 'bool': garment, '0 and 1': garment.astype(np.uint8), 'RGB': np.dstack([mask]*3),
              'JPEG': as_jpeg(mask, 60), 'RGB, JPEG': as_jpeg(np.dstack([mask]*3), 60)}

@pytest.mark.parametrize('pixels', mask_files.values(), ids=mask_files)
def test_mask_files(pixels):
    out = mask_of_file(pixels, 'a_file')
    assert set(np.unique(out)) == {0, 255} and overlap(out) > .99
    refuses(lambda: mask_of_file(photo, 'a_file'), 'a mask in colours')

doubts = {'empty': (mask*0, 'nearly empty (0% of the photo)'),
          'full': (mask*0 + 255, 'nearly full (100% of the photo)'),
          'inverted': (255 - mask, 'touches all borders'),
          'holes': (np.where(np.arange(192) % 5 < 4, mask, 0), 'of its area are holes'),
          'elsewhere': (np.roll(mask, 60, 1), 'with what the photo shows')}

@pytest.mark.parametrize('case', doubts.values(), ids=doubts)
def test_doubts(case):
    doubtful, words = case
    shown = photos['red on white'][0]
    found = mask_doubts(doubtful, shown)
    assert any(words in d for d in found) and all("by 'ground'" in d for d in found)
    assert mask_doubts(mask, shown) == []

def test_unknown_guess():
    with pytest.raises(OptionError, match='Choose from white, ground, grabcut'): garment_mask(photo, way='magic')

# real files

def opened(path):
    with Image.open(path) as o: return label_pixels(o)

def some(folder, ending='', n=24):
    found = sorted(p for p in folder.iterdir() if p.name.endswith(ending))
    assert found, folder
    return found[::max(1, len(found)//n)]

real_dense = {'layouts/dresscode/upper_body/dense': ('.png', 'parts'),
              'layouts/dresscode/dresses/dense': ('.png', 'parts'),
              'layouts/dresscode/upper_body/image-densepose': ('', 'parula'),
              'layouts/vitonhd/test/image-densepose': ('', 'parula'),
              'vvt/train/densepose/vivid01u-a11': ('', 'iuv'), 'vvt/test/densepose/magic92u-b11': ('', 'iuv')}

@pytest.mark.parametrize('folder', real_dense)
def test_real_densepose(real, folder):
    ending, form = real_dense[folder]
    found = [opened(p) for p in some(real/folder, ending)]
    assert recognise_densepose(found, folder) == form
    for a in found:
        out = to_iuv(a, form, folder)
        assert 20 < out[...,0].max() < 25 and len(np.unique(out[...,0])) > 12
        if form != 'parula': continue
        off = np.abs(part_colours('parula')[out[...,0]].astype(int) - a).sum(-1)[out[...,0] > 0]
        assert (off <= 24).mean() > .9 # the parts found have the picture's colours, but for edges

def test_real_densepose_of_the_official_tool(real):
    found = [opened(p)[...,::-1] for p in some(real/'vvt/train/densepose/vivid01u-a11')]
    assert recognise_densepose(found) == 'vui'

def test_real_parts_and_places(real):
    folder = real/'layouts/dresscode/upper_body/dense'
    uv = np.load(folder/'000000_5_uv.npz')['uv']
    out = join_iuv(opened(folder/'000000_5.png'), uv, folder)
    assert recognise_densepose([out]) == 'iuv' and out[...,1].max() > 200

real_parses = {
    'viton/train/image-parse': 'lip', 'layouts/viton_plus/test/image-parse': 'lip',
    'vvt/train/train_frames_parsing/vivid01u-a11': 'lip', 'vvt/train/train_frames_parsing/magic92u-a11': 'lip',
    'vvt/test/test_frames_parsing/magic92u-b11': 'lip', 'layouts/viton_plus/test/image-parse-new': 'cp-vton+',
    'layouts/vitonhd/test/image-parse-v3': 'cihp', 'vitonhd/test/image-parse-v3': 'cihp',
    'layouts/vitonhd_demo2021/test/image-parse': 'cihp', 'layouts/mpv/jdai/parse_cihp': 'cihp',
    'layouts/mpv/mpv3d_example/image-parse': 'cihp', 'layouts/dresscode/upper_body/label_maps': 'atr',
    'layouts/dresscode/lower_body/label_maps': 'atr', 'layouts/dresscode/dresses/label_maps': 'atr',
    'layouts/odd/cachecake/image-parse': 'cihp', # in colours
    'layouts/odd/cachecake/image-parse-new': 'cihp',
    'layouts/odd/letmein/image-parse': 'lip', 'layouts/odd/letmein/image-parse-new': 'lip', # renumbered palettes
}

@pytest.mark.parametrize('folder', real_parses)
def test_real_parses(real, folder):
    found = [opened(p) for p in some(real/folder, '.png')]
    assert recognise_parse(found, folder) == real_parses[folder]
    for a in found:
        labels = to_lip(a, real_parses[folder], folder)
        if real_parses[folder] != 'lip': assert not (labels == LIP['jumpsuits']).any() # the neck is no jumpsuit
        if folder.startswith('vvt'): continue # they are rough
        face, garment = (np.argwhere(np.isin(labels, ids))[:,0] for ids in ([LIP['face']], clothes_ids))
        assert len(face) and len(garment) and face.mean() < garment.mean()

real_wrong = {'layouts/odd/cachecake/image-parse/000010_0.jpg': 'is in no known palette',
              'layouts/odd/cachecake/image-parse-new/000010_0.jpg': 'the labels of this parse are smeared',
              'layouts/odd/cachecake/image-mask/000010_0.png': 'a mask of 0, 1, 254, 255',
              'layouts/odd/letmein/image-mask/man_1_1.png': 'a mask of 0, 1',
              'layouts/vitonhd/test/agnostic-mask/00008_00_mask.png': 'a mask of 0, 255'}

@pytest.mark.parametrize('path', real_wrong)
def test_real_files_that_are_no_parses(real, path):
    refuses(lambda: to_labels(opened(real/path), 'a_file'), real_wrong[path])

def test_the_same_parse_in_colours_and_in_numbers(real):
    folder = real/'layouts/odd/cachecake'
    numbers, colours = (to_lip(opened(folder/k/'000010_0.png'), 'cihp') for k in ('image-parse-new', 'image-parse'))
    assert (numbers == colours).mean() > .99

real_joints = {'viton/test/pose': 'image', 'layouts/viton_plus/test/pose': 'image',
               'layouts/vitonhd/test/openpose_json': 'image', 'layouts/mpv/jdai/pose_coco': 'images',
               'layouts/dresscode/upper_body/keypoints': 'images', 'layouts/dresscode/dresses/keypoints': 'images'}

@pytest.mark.parametrize('folder', real_joints)
def test_real_joints(real, folder):
    seen = 0
    for p in some(real/folder):
        stem = p.stem.removesuffix('_keypoints')
        if 'dresscode' in folder: stem = stem.replace('_2', '_0')
        if not (picture := p.parent.parent/real_joints[folder]/f'{stem}.jpg').exists(): continue
        with Image.open(picture) as o: width, height = o.size
        out = to_coco18(json.loads(p.read_text()), height, width, where=p)
        found = out[out[:,2] > 0]
        assert len(found) >= 8 and np.ptp(found[:,1]) > .35*height # a person fills the picture, in its own pixels
        left, right = out[COCO['left-shoulder']], out[COCO['right-shoulder']]
        assert abs(left[1] - right[1]) < .15*height
        seen += 1
    assert seen

def test_real_joints_lie_on_the_person(real):
    counts = []
    for p in some(real/'viton/test/pose', n=100):
        labels = opened(real/'viton/test/image-parse'/f'{p.name[:8]}.png')
        counts.append(joints_on_person(to_coco18(json.loads(p.read_text()), 256, 192), labels))
    on, found = np.sum(counts, 0)
    assert on/found > .93

@pytest.mark.parametrize('clip', ('train/vivid01u-a11', 'train/magic92u-a11', 'test/magic92u-b11'))
def test_real_flow(real, clip):
    from shineon.core.media import estimate_flow, read_flo, read_picture
    mode, video = clip.split('/')
    root = real/'vvt'/mode
    def frame(i): return read_picture(root/f'{mode}_frames'/video/f'{video}_frame_{i:03d}.png')
    def flow(i): return read_flo(root/'optical_flow'/video/f'{video}_frame_{i:03d}.flo')
    pairs = [(flow(i), frame(i), frame(i-1)) for i in (3, 9, 15)]
    assert recognise_flow(pairs) == 'backward' and all(recognise_flow([p]) == 'backward' for p in pairs)
    wrong = [(estimate_flow(before, now), now, before) for _,now,before in pairs]
    assert recognise_flow(wrong) == 'forward'
    for (f,now,before), (g,_,_) in zip(pairs, wrong):
        assert flow_mismatch(backward_flow(g), now, before) < 1.25*flow_mismatch(f, now, before)

def test_real_masks(real):
    overlaps, doubtful = [], []
    for p in some(real/'viton/train/cloth', n=100):
        shown = np.array(Image.open(p).convert('RGB'))
        file = mask_of_file(np.array(Image.open(p.parent.parent/'cloth-mask'/p.name)), p)
        masks = [file, *(garment_mask(shown, way=way) for way in ('white', 'ground'))]
        overlaps.append([((m > 0) & (file > 0)).sum()/((m > 0) | (file > 0)).sum() for m in masks[1:]])
        doubtful.append([bool(mask_doubts(m)) for m in masks])
    white, ground = np.array(overlaps).T
    assert np.median(ground) > .97 and (ground < .9).mean() < .15 < (white < .9).mean()
    by_file, by_white, by_ground = np.mean(doubtful, 0)
    assert by_file < .1 and by_ground <= .02 < by_white

def test_a_real_white_shirt_on_grey(real):
    folder = real/'vitonhd/test'
    shown, file = (as_rgb(Image.open(folder/k/'001.jpg'))[0] for k in ('cloth', 'cloth-mask'))
    file = mask_of_file(file) > 0
    def with_file(way): m = garment_mask(shown, way=way) > 0; return (m & file).sum()/(m | file).sum()
    assert with_file('ground') > .9 and with_file('grabcut') > .9 and with_file('white') < .5
    assert mask_doubts(garment_mask(shown), shown) and not mask_doubts(garment_mask(shown, way='ground'), shown)
